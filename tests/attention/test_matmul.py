"""The matmul backend: where it is chosen, and that its weights are the definition's, also those it leaves to who asks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from attnlib import Causal, Layout, Window, attend
from attnlib.attention.backends.choose import backend_named, choose
from attnlib.attention.backends.protocol import AttentionCall
from attnlib.attention.backends.reference import mix, weights
from attnlib.attention.biases import ALiBi, ScoreTerm
from attnlib.attention.masks import Everything, Given, Mask
from attnlib.attention.scores import ScoreRule
from attnlib.attention.visibility import Visibility

SPARSE = torch.rand(1, 1, 100, 100, generator=torch.Generator().manual_seed(3)) > 0.7
SPARSE[..., 7, :] = False  # a query that sees nothing


def called(
    batch: int, tokens: int, mask: Mask, terms: tuple[ScoreTerm, ...] = (), heads: int = 8, **rule: Any
) -> AttentionCall:
    layout = Layout.dense(batch, tokens)
    return AttentionCall(Visibility(mask, layout, layout, heads), ScoreRule(scale=0.3, terms=terms, **rule))


def drawn(
    batch: int, tokens: int, heads: int = 8, groups: int = 8, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, ...]:
    return tuple(torch.randn(batch, n, tokens, 16, dtype=dtype) for n in (heads, groups, groups))


@pytest.mark.parametrize(
    ("batch", "tokens", "heads", "dtype", "wished"),
    [(1, 96, 8, torch.float32, "matmul"), (1, 160, 8, torch.float32, "matmul"), (1, 95, 8, torch.float32, "sdpa"),
     (1, 161, 8, torch.float32, "sdpa"), (2, 128, 8, torch.float32, "sdpa"), (1, 128, 4, torch.float32, "sdpa"),
     (1, 128, 8, torch.float64, "sdpa"), (1, 128, 8, torch.bfloat16, "sdpa")],
)  # fmt: skip
def test_one_text_of_some_hundred_tokens_goes_through_matmul(
    batch: int, tokens: int, heads: int, dtype: torch.dtype, wished: str
) -> None:
    q, k, v = drawn(batch, tokens, heads, heads, dtype)
    call = called(batch, tokens, Causal(), heads=heads)
    with torch.no_grad():
        assert choose(q, k, v, call).name == wished


def test_training_and_capped_scores_in_float32_stay_where_they_were() -> None:
    q, k, v = drawn(1, 128)
    assert choose(q, k, v, called(1, 128, Causal())).name == "sdpa"
    with torch.no_grad():
        assert choose(q, k, v, called(1, 128, Causal(), softcap=5.0)).name == "reference"


@pytest.mark.parametrize("groups", [8, 2])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("mask", [Everything(), Causal(), Causal() & Window(before=5), Given(SPARSE)], ids=str)
def test_weights_left_to_who_asks_are_the_definitions(mask: Mask, biased: bool, batch: int, groups: int) -> None:
    q, k, v = drawn(batch, 100, groups=groups)
    call = called(batch, 100, mask, (ALiBi(num_heads=8),) if biased else ())
    backend = backend_named("matmul")
    with torch.no_grad():
        unasked = backend(q, k, v, call)
        assert call.kept is None
        call.kept = []
        asked = backend(q, k, v, call)
        wished = weights(q, k, call)
    assert torch.equal(unasked, asked) and len(call.kept) == 1
    torch.testing.assert_close(call.kept[0], wished, atol=1e-6, rtol=0)
    torch.testing.assert_close(asked, mix(wished, v), atol=1e-5, rtol=0)


def test_rounded_or_dropped_weights_are_not_left() -> None:
    q, k, v = drawn(1, 100)
    call = called(1, 100, Causal())
    call.kept = []
    backend_named("matmul")(q, k, v, call)  # with gradients
    with torch.no_grad():
        backend_named("matmul")(q.bfloat16(), k.bfloat16(), v.bfloat16(), call)
        call.dropout = 0.5
        backend_named("matmul")(q, k, v, call)
    assert call.kept == []


def test_autocast_does_not_round_what_is_given_in_float32() -> None:
    q, k, v = drawn(1, 100)
    with torch.no_grad():
        wished = attend(q, k, v, is_causal=True, backend="matmul")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(attend(q, k, v, is_causal=True, backend="matmul"), wished)
