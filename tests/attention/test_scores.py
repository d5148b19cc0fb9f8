"""How a query meets a key, by the formulas of the papers, a pair at a time in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from mixer_gradients import gradients_hold
from torch import Tensor

from attnlib.attention.softmax import MixerSpec
from attnlib.errors import SpecError
from attnlib.layout import Layout
from attnlib.spec import read

WIDTH, HEADS, GROUPS, D = 12, 4, 2, 3


def module(**tree: Any) -> Any:
    spec = read(MixerSpec, {"num_heads": HEADS, "num_kv_heads": GROUPS, "mask": "causal"} | tree)
    made = spec.build(d_model=WIDTH, layer=0).double()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) * 0.6)
    return made.eval()


def text(batch: int = 2, tokens: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(batch, tokens, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive(m: Any, x: Tensor, score: Any) -> Tensor:
    """Causal attention of one text [T, M], each score by `score(m, h, q, k)`."""
    rows = []
    for t in range(len(x)):
        heads = []
        for h in range(HEADS):
            g = h // (HEADS // GROUPS)
            q = m.q.weight[h * D : (h + 1) * D] @ x[t]
            powers = [math.e ** score(m, h, q, m.k.weight[g * D : (g + 1) * D] @ x[j]) for j in range(t + 1)]
            values = [m.v.weight[g * D : (g + 1) * D] @ x[j] for j in range(t + 1)]
            heads.append(sum(p * v for p, v in zip(powers, values)) / sum(powers))
        rows.append(m.out.weight @ torch.cat(heads))
    return torch.stack(rows)


def bilinear(m: Any, h: int, q: Tensor, k: Tensor) -> Tensor:
    return sum(q[i] * m.rule.product.weight[h, i, j] * k[j] for i in range(D) for j in range(D)) / math.sqrt(D)  # type: ignore[return-value]


def cosine(m: Any, h: int, q: Tensor, k: Tensor) -> Tensor:
    return (q @ k) / (q @ q).sqrt() / (k @ k).sqrt() * m.rule.product.log_scale[h].exp()


def additive(m: Any, h: int, q: Tensor, k: Tensor) -> Tensor:
    return sum(w * ((a + b).exp() - (-a - b).exp()) / ((a + b).exp() + (-a - b).exp())
               for w, a, b in zip(m.rule.terms[0].weight[h], q, k))  # fmt: skip


SCORES: dict[str, tuple[dict[str, Any], Any]] = {
    "bilinear": ({"scores": {"product": "bilinear"}}, bilinear),
    "cosine": ({"scores": {"product": "cosine"}}, cosine),
    "additive alone": ({"scores": {"scale": 0}, "term": "additive"}, additive),
}


@torch.no_grad()
@pytest.mark.parametrize("name", SCORES)
def test_it_is_the_formula_of_its_paper(name: str) -> None:
    tree, score = SCORES[name]
    m, x = module(**tree), text()
    for row in range(2):
        torch.testing.assert_close(m(x)[row], naive(m, x[row], score), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", SCORES)
def test_gradients_are_those_of_differences(name: str) -> None:
    assert gradients_hold(module(**SCORES[name][0]), text(1), Layout.packed([[2, 3]]))


@torch.no_grad()
def test_the_temperature_of_cosine_scores_ends_at_one_hundredth() -> None:
    """Swin v2 clamps the logarithm of the factor at log 100; zero vectors meet with score 0."""
    m, x = module(scores={"product": "cosine"}), text()
    found = []
    for value in (math.log(100.0), 7.0):
        m.rule.product.log_scale.fill_(value)
        found.append(m(x))
    assert torch.equal(*found)
    assert torch.isfinite(m.half()(torch.zeros(1, 3, WIDTH).half())).all()
    spec = read(MixerSpec, {"num_heads": 2, "scores": {"product": "cosine"}})
    fresh = spec.build(d_model=WIDTH, layer=0)
    torch.testing.assert_close(fresh.rule.product.log_scale.exp(), torch.full((2,), 10.0))
    assert fresh.rule.scale == 1.0


@torch.no_grad()
def test_bilinear_begins_as_the_dot_product() -> None:
    torch.manual_seed(0)
    m = read(MixerSpec, {"num_heads": 2, "scores": {"product": "bilinear"}}).build(d_model=WIDTH, layer=0)
    plain = read(MixerSpec, {"num_heads": 2}).build(d_model=WIDTH, layer=0)
    plain.load_state_dict(m.state_dict(), strict=False)
    torch.testing.assert_close(m(text().float()), plain(text().float()))


def test_a_scale_below_zero_is_refused() -> None:
    with pytest.raises(SpecError, match="scale"):
        read(MixerSpec, {"num_heads": 2, "scores": {"scale": -1.0}})
