"""Ways from scores to weights, against numbers worked out by hand and limits that their papers name."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from attnlib.attention.functional import attend
from attnlib.attention.masks import Causal
from attnlib.attention.normalisers.entmax import entmax15, sparsemax
from attnlib.attention.scores import Normaliser, NormaliserSpec
from attnlib.errors import SpecError
from attnlib.layout import Layout
from attnlib.spec import read

KINDS: list[Any] = ["sigmoid", "sparsemax", "entmax15", {"kind": "top_k", "count": 2}, "talking_heads", "softmax_sink"]


def made(kind: Any, heads: int = 2) -> Normaliser:
    return read(NormaliserSpec, kind).build(num_heads=heads)


def row(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_sparsemax_of_two_scores_is_a_clipped_line() -> None:
    """[s, 0] -> (s + 1) / 2 within [-1, 1] (Martins & Astudillo 2016, section 2.2)."""
    for s, first in ((-2.0, 0.0), (-0.4, 0.3), (0.0, 0.5), (0.6, 0.8), (1.0, 1.0), (7.0, 1.0)):
        torch.testing.assert_close(sparsemax(row(s, 0.0)), row(first, 1 - first))
    torch.testing.assert_close(sparsemax(row(1.0, 0.8, 0.1)), row(0.6, 0.4, 0.0))


def test_entmax15_of_two_scores_is_its_closed_form() -> None:
    """[s, 0] -> ((s + sqrt(8 - s^2)) / 4)^2 within [-2, 2]: the root of (s/2 - t)^2 + t^2 = 1 (Peters et al. 2019)."""
    for s in (-1.9, -0.7, 0.0, 1.3, 2.0):
        first = ((s + math.sqrt(8 - s * s)) / 4) ** 2
        torch.testing.assert_close(entmax15(row(s, 0.0)), row(first, 1 - first))
    assert entmax15(row(2.1, 0.0)).tolist() == [1.0, 0.0]


def test_sparse_weights_are_exactly_zero_and_long_rows_sum_to_one() -> None:
    scores = torch.randn(3, 20_000, generator=torch.Generator().manual_seed(0)) * 3
    for weigh in (sparsemax, entmax15):
        weights = weigh(scores)
        assert 0.99 < float((weights == 0).double().mean()) < 1
        torch.testing.assert_close(weights.sum(-1), torch.ones(3), rtol=0, atol=1e-5)
        shifted = weigh(scores.double() + 1e4)
        torch.testing.assert_close(shifted, weights.double(), rtol=0, atol=1e-5)


def test_sigmoid_weights_do_not_compete_and_begin_near_a_sum_of_one() -> None:
    sigmoid = made("sigmoid")
    weights = sigmoid(torch.zeros(1, 1, 1, 200), None)
    assert 0.9 < float(weights.sum()) <= 1
    fixed = made({"kind": "sigmoid", "offset": -1.0})
    first, second = (fixed(torch.tensor([[[[0.3, other]]]]), None)[..., 0] for other in (-2.0, 9.0))
    assert torch.equal(first, second)
    torch.testing.assert_close(first.item(), 1 / (1 + math.exp(0.7)))


def test_top_k_keeps_equal_scores_together_in_any_order() -> None:
    top = made({"kind": "top_k", "count": 2})
    weights = top(torch.tensor([[[[1.0, 3.0, 1.0, 0.0]]]]), None)
    assert weights[0, 0, 0, 0] == weights[0, 0, 0, 2] > 0 == weights[0, 0, 0, 3]
    every = made({"kind": "top_k", "count": 4})
    scores = torch.randn(1, 1, 5, 4)
    assert torch.equal(every(scores, None), scores.softmax(-1))


def test_talking_heads_begin_as_softmax() -> None:
    scores = torch.randn(2, 2, 3, 5)
    torch.testing.assert_close(made("talking_heads")(scores, None), scores.softmax(-1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_half_precision_is_finite_and_blind_rows_are_zero(kind: Any, dtype: torch.dtype) -> None:
    normaliser = made(kind).to(dtype)
    q, k, v = (torch.randn(2, 2, 7, 4, generator=torch.Generator().manual_seed(i)).to(dtype) * 9 for i in range(3))
    q.requires_grad_()
    out = attend(q, k, v, mask=Causal(), layout=Layout.from_lengths([7, 3], 7, side="left"), normaliser=normaliser)
    out.float().square().sum().backward()
    assert q.grad is not None and torch.isfinite(out).all() and torch.isfinite(q.grad).all()
    assert not out[1, :, :4].any() and not q.grad[1, :, :4].any() and out[1, :, 4:].any()


@pytest.mark.parametrize("kind", ["sparsemax", "entmax15", {"kind": "top_k", "count": 5}], ids=str)
def test_row_blocks_give_what_whole_rows_give(kind: Any) -> None:
    normaliser = made(kind)
    q, k, v = (torch.randn(1, 2, 300, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    found = []
    for backend in ("reference", "chunked"):
        out = attend(q, k, v, mask=Causal(), normaliser=normaliser, backend=backend)
        found.append((out, *torch.autograd.grad(out.square().sum(), (q, k, v))))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_count_of_none_is_refused() -> None:
    with pytest.raises(SpecError, match="count"):
        read(NormaliserSpec, {"kind": "top_k", "count": 0})
