"""Each linear recurrence equals its paper's formula, one token after the other, written out here in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from mixer_gradients import gradients_hold
from torch import Tensor, nn

from attnlib.attention.linear.decay import TokenDecay
from attnlib.attention.softmax import MixerSpec
from attnlib.layout import Layout
from attnlib.spec import read

WIDTH, HEADS = 12, 3
Vector = list[float]


def module(**tree: Any) -> Any:
    """The mixer of a tree, every parameter drawn, in float64."""
    mixer = read(MixerSpec, {"num_heads": HEADS} | tree).build(d_model=WIDTH, layer=1).double()
    made = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in mixer.parameters():
            p.copy_(torch.randn(p.shape, generator=made, dtype=torch.float64) * 0.4 + (0.5 if p.dim() == 1 else 0.0))
    return mixer.eval()


def text(batch: int, tokens: int, seed: int = 0) -> Tensor:
    return torch.randn(batch, tokens, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def rms(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.pow(2).mean() + 1e-6).sqrt() * weight


def length_one(x: Tensor) -> Tensor:
    return x / x.pow(2).sum().sqrt()


def head(m: Any, name: str, x: Tensor, h: int) -> Tensor:
    """Head h of a projection of one token x [M]."""
    weight = getattr(m, name).weight
    width = m.heads.d_value if name in ("v", "gate") else m.heads.d_key
    return weight[h * width : (h + 1) * width] @ x


# each formula gives the heads [E] that leave token t of x [T, M], before the last projection


def linear(m: Any, x: Tensor, t: int, h: int) -> Tensor:
    def phi(z: Tensor) -> Tensor:
        return torch.stack([c + 1 if c > 0 else c.exp() for c in z])

    above, below = torch.zeros(m.heads.d_value, dtype=x.dtype), 0.0
    for j in range(t + 1):
        weight = phi(head(m, "q", x[t], h)) @ phi(head(m, "k", x[j], h))
        above, below = above + weight * head(m, "v", x[j], h), below + weight
    return above / below


def performer(m: Any, x: Tensor, t: int, h: int) -> Tensor:
    def phi(z: Tensor) -> Tensor:
        z = z / len(z) ** 0.25
        return torch.stack([(w @ z - z @ z / 2).exp() for w in m.projection])

    above, below = torch.zeros(m.heads.d_value, dtype=x.dtype), 0.0
    for j in range(t + 1):
        weight = phi(head(m, "q", x[t], h)) @ phi(head(m, "k", x[j], h))
        above, below = above + weight * head(m, "v", x[j], h), below + weight
    return above / below


def retention(m: Any, x: Tensor, t: int, h: int) -> Tensor:
    gamma, y = 1 - 2.0 ** (-5 - h), torch.zeros(m.heads.d_value, dtype=x.dtype)
    for j in range(t + 1):
        weight = head(m, "q", x[t], h) @ head(m, "k", x[j], h) / math.sqrt(m.heads.d_key)
        y = y + gamma ** (t - j) * weight * head(m, "v", x[j], h)
    return rms(y, m.norm.weight) * silu(head(m, "gate", x[t], h))


def gla(m: Any, x: Tensor, t: int, h: int) -> Tensor:
    width = m.heads.d_key
    first, second = m.decay
    state = torch.zeros(width, m.heads.d_value, dtype=x.dtype)
    for j in range(t + 1):
        gate = (second.weight @ (first.weight @ x[j]) + second.bias)[h * width : (h + 1) * width]
        state = torch.diag(sigmoid(gate) ** (1 / 16)) @ state + torch.outer(head(m, "k", x[j], h), head(m, "v", x[j], h))
    return rms(state.T @ head(m, "q", x[t], h), m.norm.weight) * silu(head(m, "gate", x[t], h))


def delta(m: Any, x: Tensor, t: int, h: int) -> Tensor:
    state = torch.zeros(m.heads.d_key, m.heads.d_value, dtype=x.dtype)
    for j in range(t + 1):
        k, beta = length_one(silu(head(m, "k", x[j], h))), sigmoid(m.beta.weight[h] @ x[j])
        state = (torch.eye(len(k), dtype=x.dtype) - beta * torch.outer(k, k)) @ state
        state = state + beta * torch.outer(k, head(m, "v", x[j], h))
    return rms(state.T @ length_one(silu(head(m, "q", x[t], h))), m.norm.weight)


def gated_delta(m: Any, x: Tensor, t: int, h: int) -> Tensor:
    state = torch.zeros(m.heads.d_key, m.heads.d_value, dtype=x.dtype)
    for j in range(t + 1):
        k, beta = length_one(silu(head(m, "k", x[j], h))), sigmoid(m.beta.weight[h] @ x[j])
        step = (1 + (m.decay.step.weight[h] @ x[j] + m.decay.bias[h]).exp()).log()
        alpha = torch.exp(-m.decay.rate[h].exp() * step)
        state = alpha * (torch.eye(len(k), dtype=x.dtype) - beta * torch.outer(k, k)) @ state
        state = state + beta * torch.outer(k, head(m, "v", x[j], h))
    y = rms(state.T @ length_one(silu(head(m, "q", x[t], h))), m.norm.weight)
    return y * silu(head(m, "gate", x[t], h))


def ssd(m: Any, x: Tensor, t: int, h: int) -> Tensor:
    """Before the norm over all heads, which `whole` adds."""
    state = torch.zeros(m.heads.d_key, m.heads.d_value, dtype=x.dtype)
    for j in range(t + 1):
        step = (1 + (m.decay.step.weight[h] @ x[j] + m.decay.bias[h]).exp()).log()
        transition = torch.exp(-m.decay.rate[h].exp() * step)
        state = transition * state + torch.outer(m.k.weight @ x[j], step * head(m, "v", x[j], h))
    y = state.T @ (m.q.weight @ x[t]) + m.skip.weight[h] * head(m, "v", x[t], h)
    return y * silu(head(m, "gate", x[t], h))


FORMULAS: dict[str, tuple[dict[str, Any], Callable[[Any, Tensor, int, int], Tensor]]] = {
    "linear": ({"d_value": 5}, linear),
    "performer": ({"num_features": 7}, performer),
    "retention": ({"d_value": 5}, retention),
    "gla": ({"d_value": 5}, gla),
    "delta": ({"d_value": 5}, delta),
    "gated_delta": ({"d_value": 5}, gated_delta),
    "ssd": ({"d_state": 5, "d_head": 4}, ssd),
}


def written_out(kind: str, m: Any, x: Tensor) -> Tensor:
    """[T, M] of one text [T, M] by the formula."""
    rows = []
    for t in range(len(x)):
        y = torch.cat([FORMULAS[kind][1](m, x, t, h) for h in range(HEADS)])
        rows.append(m.out.weight @ (rms(y, m.norm.weight) if kind == "ssd" else y))
    return torch.stack(rows)


@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, 7])
@pytest.mark.parametrize("kind", FORMULAS)
def test_it_is_the_formula_of_its_paper(kind: str, tokens: int) -> None:
    m, x = module(kind=kind, mask="causal", **FORMULAS[kind][0]), text(2, tokens)
    for row in range(2):
        torch.testing.assert_close(m(x)[row], written_out(kind, m, x[row]), rtol=1e-9, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("kind", FORMULAS)
def test_both_ways_is_the_scan_of_the_text_and_of_its_reverse(kind: str) -> None:
    """Before norm and gate; kernel attention counts each pair once, which is attention over the whole text."""
    both, forward = (module(kind=kind, mask=mask, **FORMULAS[kind][0]) for mask in ("everything", "causal"))
    forward.load_state_dict(both.state_dict())
    x, layout = text(2, 6), Layout.dense(2, 6)
    finished: list[Tensor] = []
    for m in (both, forward):
        m.finish = lambda x, y: finished.append(y) or y
    whole = both(x)
    if kind in ("linear", "performer"):
        weights = both.implied_weights(x, layout, None)
        v = both._split(both.v(x), both.heads.d_value)
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
        torch.testing.assert_close(whole, weights @ v)
    else:
        there, back = forward(x), forward(x.flip(1)).flip(2)
        back = back - both.skip(both._split(both.v(x), both.heads.d_value)) if kind == "ssd" else back
        torch.testing.assert_close(whole, there + back)


@pytest.mark.parametrize("kind", FORMULAS)
def test_gradients_are_those_of_differences(kind: str) -> None:
    m = module(kind=kind, mask="causal", conv=2, **FORMULAS[kind][0])
    assert gradients_hold(m, text(1, 5, seed=3), Layout.packed([[2, 3]]))


@torch.no_grad()
@pytest.mark.parametrize("kind", FORMULAS)
def test_more_than_one_chunk_and_extreme_gates_stay_exact(kind: str) -> None:
    """130 tokens are three chunks; inputs of size 30 drive every gate to its ends."""
    m, x = module(kind=kind, mask="causal", **FORMULAS[kind][0]), text(1, 130, seed=1)
    x[:, 40:80] *= 30
    cache = m.new_cache(None)
    steps = torch.cat([m(x[:, i : i + 1], cache=cache) for i in range(130)], 1)
    torch.testing.assert_close(m(x), steps, rtol=1e-8, atol=1e-8)
    single = m.float()(x.float())
    assert torch.isfinite(single).all()
    torch.testing.assert_close(single.double(), steps, rtol=1e-3, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", FORMULAS)
def test_what_is_no_token_gives_zeros_also_in_half_precision(kind: str, dtype: torch.dtype) -> None:
    m, x = module(kind=kind, **FORMULAS[kind][0]).to(dtype), text(2, 6).to(dtype)
    y = m(x, Layout.from_lengths([4, 0], 6, side="left"))
    assert torch.isfinite(y).all() and not y[0, :2].any() and not y[1].any() and y[0, 2:].any()


@torch.no_grad()
def test_favor_estimates_the_softmax_kernel_without_bias_and_its_variance_falls() -> None:
    from attnlib.attention.linear.performer import orthogonal

    q, k = (text(1, 2, seed)[0, 0, :4] * 0.7 for seed in (1, 2))
    wanted = math.exp(q @ k / 2)
    spread = []
    for count in (4, 32):
        found = []
        for seed in range(400):
            w = orthogonal(count, 4, seed).double()
            phi = [torch.exp(w @ z / 4**0.25 - z @ z / 4) for z in (q, k)]
            found.append(float(phi[0] @ phi[1]) / count)
        estimates = torch.tensor(found)
        spread.append(float(estimates.std()))
        assert abs(estimates.mean() - wanted) < 4 * spread[-1] / 20
    assert spread[1] < 0.5 * spread[0]
    w = orthogonal(4, 4, 0)
    torch.testing.assert_close(w @ w.T, torch.diag(w.square().sum(1)), rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("features", [64, 4096])
def test_many_features_come_near_softmax_attention(features: int) -> None:
    m = module(kind="performer", num_features=features)
    x = text(1, 9) * 0.5
    q, k, v = (m._split(getattr(m, name)(x), 4) for name in ("q", "k", "v"))
    exact = m.out(torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
    error = float((m(x) - exact).norm() / exact.norm())
    assert error < (0.5 if features == 64 else 0.1)


@torch.no_grad()
def test_packed_pairs_read_their_own_source() -> None:
    spec = read(MixerSpec, {"kind": "linear", "num_heads": HEADS})
    m = spec.build(d_model=WIDTH, layer=0, d_memory=WIDTH).double()
    x, source = text(1, 7), text(1, 9, seed=4)
    packed = m(x, Layout.packed([[3, 4]]), memory=m.remember(source, Layout.packed([[4, 5]])))
    for ours, theirs in ((slice(0, 3), slice(0, 4)), (slice(3, 7), slice(4, 9))):
        part = source[:, theirs]
        alone = m(x[:, ours], memory=m.remember(part, Layout.dense(1, part.shape[1])))
        torch.testing.assert_close(packed[:, ours], alone)


@torch.no_grad()
def test_a_short_convolution_reads_the_tokens_before_of_the_same_text() -> None:
    from attnlib.attention.linear.short_conv import ShortConv

    conv = ShortConv(2, kernel=3, activation=False).double()
    nn.init.normal_(conv.weight)
    x = text(1, 7)[..., :2]
    layout = Layout.packed([[3, 3]], 7)
    y, tail = conv(x, layout)
    for t in range(6):
        begin = 0 if t < 3 else 3
        wanted = sum(conv.weight[o] * x[0, t - o] for o in range(3) if t - o >= begin)
        torch.testing.assert_close(y[0, t], wanted)
    torch.testing.assert_close(tail[0], x[0, 4:6])


@pytest.mark.parametrize("heads", [1, 2, 3, 16])
def test_no_head_begins_by_forgetting_all_or_by_writing_nothing_beside_another(heads: int) -> None:
    with torch.no_grad():
        step, decay = (found[0, :, 0] for found in TokenDecay(8, heads)(torch.zeros(1, 1, 8)))
    memory = -1 / decay  # tokens until a share of 1/e is left
    assert step.min() > 0.00099 and step.max() < 0.101
    assert memory.min() > 9.9 and memory.max() < 63
