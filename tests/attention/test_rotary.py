"""Rotary: turning by position, and every scaling against the published code."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from attnlib.attention.rotary import Dynamic, Linear, Llama3, LongRope, Rotary, Scaling, Yarn
from attnlib.errors import LayoutError
from attnlib.layout import Layout
from attnlib.spec import FieldError

HALF = 8
LONG = tuple(1.0 + i for i in range(HALF))
SHORT = tuple(1.0 + i / 8 for i in range(HALF))

CASES: list[tuple[Scaling, dict[str, Any]]] = [
    (Linear(factor=2.5), {"rope_type": "linear", "factor": 2.5}),
    (Dynamic(factor=2.0, original_length=32), {"rope_type": "dynamic", "factor": 2.0}),
    (
        Llama3(factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_length=64),
        {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
         "original_max_position_embeddings": 64},
    ),
    (Yarn(factor=4.0, original_length=32), {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}),
    (
        Yarn(factor=8.0, original_length=64, beta_fast=16.0, beta_slow=2.0, attention_factor=1.3, truncate=False),
        {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64, "beta_fast": 16.0, "beta_slow": 2.0,
         "attention_factor": 1.3, "truncate": False},
    ),
    (
        LongRope(factor=4.0, original_length=32, short_factor=SHORT, long_factor=LONG),
        {"rope_type": "longrope", "factor": 4.0, "original_max_position_embeddings": 32, "short_factor": list(SHORT),
         "long_factor": list(LONG)},
    ),
]  # fmt: skip


@pytest.mark.parametrize("length", [16, 32, 100])
@pytest.mark.parametrize(("scaling", "parameters"), CASES, ids=lambda value: getattr(value, "kind", ""))
def test_scalings_are_those_of_transformers(scaling: Scaling, parameters: dict[str, Any], length: int) -> None:
    functions = pytest.importorskip("transformers.modeling_rope_utils").ROPE_INIT_FUNCTIONS
    config = SimpleNamespace(
        rope_parameters={"rope_theta": 10000.0} | parameters,
        head_dim=2 * HALF,
        hidden_size=4 * HALF,
        num_attention_heads=2,
        max_position_embeddings=32,
        standardize_rope_params=lambda: None,
    )
    wanted, factor = functions[parameters["rope_type"]](config, torch.device("cpu"), seq_len=length)
    got, ours = scaling.frequencies(2 * HALF, 10000.0, length)
    assert torch.allclose(got, wanted, rtol=1e-6, atol=0) and ours == pytest.approx(factor)


@pytest.mark.parametrize("interleaved", [False, True])
def test_scores_depend_on_distance_alone(interleaved: bool) -> None:
    rotary = Rotary(interleaved=interleaved, fraction=0.5)
    q, k = torch.randn(1, 2, 1, 12, dtype=torch.float64), torch.randn(1, 2, 1, 12, dtype=torch.float64)

    def score(at: int, to: int) -> torch.Tensor:
        turned = [rotary.turn(x, rotary.table(Layout.dense(1, 1, start=p), 12, x.dtype)) for x, p in ((q, at), (k, to))]
        return (turned[0] * turned[1]).sum(-1)

    assert torch.allclose(score(9, 4), score(25, 20)) and not torch.allclose(score(9, 4), score(9, 5))
    assert torch.allclose(score(3, 3), (q * k).sum(-1))


@pytest.mark.parametrize("interleaved", [False, True])
def test_a_pair_is_turned_by_position_times_frequency(interleaved: bool) -> None:
    """Counter-clockwise: channel pair (1, 0) at position p becomes (cos p w, sin p w)."""
    rotary = Rotary(base=100.0, interleaved=interleaved)
    x = torch.zeros(1, 1, 3, 4, dtype=torch.float64)
    first, second = ((0, 1), (2, 3)) if interleaved else ((0, 2), (1, 3))
    x[..., first[0]] = x[..., second[0]] = 1.0
    y = rotary.turn(x, rotary.table(Layout.dense(1, 3, start=4), 4, x.dtype))[0, 0]
    at = torch.arange(4, 7, dtype=torch.float64)
    for pair, frequency in ((first, 1.0), (second, 0.1)):
        assert torch.allclose(y[:, pair[0]], (at * frequency).cos(), atol=1e-6)
        assert torch.allclose(y[:, pair[1]], (at * frequency).sin(), atol=1e-6)


def test_rotary_reads_the_encoding_positions() -> None:
    rotary, x = Rotary(), torch.randn(1, 1, 3, 4)
    elsewhere = Layout.dense(1, 3).encoded(torch.tensor([[5, 6, 7]]))
    wanted = rotary.turn(x, rotary.table(Layout.dense(1, 3, start=5), 4, x.dtype))
    assert torch.equal(rotary.turn(x, rotary.table(elsewhere, 4, x.dtype)), wanted)


def test_scaling_that_reads_the_length_asks_for_it() -> None:
    rotary = Rotary(scaling=Dynamic(factor=2.0, original_length=4))
    unknown = Layout(torch.tensor([[0, 1, 2]]))
    with pytest.raises(LayoutError, match="length of this layout is not known"):
        rotary.table(unknown, 4, torch.float32)
    assert rotary.table(unknown, 4, torch.float32, 3)[0].shape == (1, 1, 3, 2)


@pytest.mark.parametrize(
    ("rotary", "error"),
    [
        (
            Rotary(scaling=LongRope(short_factor=(1.0,), long_factor=(1.0, 2.0), original_length=4)),
            "short_factor: 1 factors",
        ),
        (Rotary(scaling=Dynamic(factor=2.0, original_length=4), fraction=0.5), "dynamic over 2 turned channels"),
        (Rotary(fraction=0.25), "must turn at least 2 of 4 channels"),
    ],
    ids=["longrope", "dynamic", "narrow"],
)
def test_what_cannot_turn_a_head_says_so(rotary: Rotary, error: str) -> None:
    with pytest.raises(FieldError, match=error):
        rotary.check(4)


def test_exact_turns_half_precision_in_fp32_and_rounds_once() -> None:
    layout, x = Layout.dense(1, 40, start=900), torch.randn(1, 2, 40, 16, generator=torch.Generator().manual_seed(1))
    half = x.to(torch.bfloat16)
    exact, plain = Rotary(exact=True, fraction=0.5), Rotary(fraction=0.5)
    once = exact.turn(half, exact.table(layout, 16, half.dtype))
    wanted = plain.turn(half.float(), plain.table(layout, 16, torch.float32)).to(torch.bfloat16)
    assert once.dtype == torch.bfloat16 and torch.equal(once, wanted)
    assert not torch.equal(once, plain.turn(half, plain.table(layout, 16, half.dtype)))
    assert torch.equal(exact.turn(x, exact.table(layout, 16, x.dtype)), plain.turn(x, plain.table(layout, 16, x.dtype)))


def test_products_rounds_cos_and_sin_and_then_the_result() -> None:
    layout, x = Layout.dense(1, 40, start=900), torch.randn(1, 2, 40, 16, generator=torch.Generator().manual_seed(1))
    half = x.half()
    products, plain = Rotary(exact="products"), Rotary()
    cos, sin = plain.table(layout, 16, half.dtype)
    wanted = plain.turn(half.float(), (cos.float(), sin.float())).half()
    found = products.turn(half, products.table(layout, 16, half.dtype))
    assert torch.equal(found, wanted) and not torch.equal(found, plain.turn(half, (cos, sin)))
