"""Initialisation schemes have the spread they promise, wherever a matrix stands."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from attnlib.models.spec import ModelSpec
from attnlib.spec import read

M, D, HEADS, FF, LAYERS, VOCAB = 64, 16, 8, 160, 3, 500  # H * D = 128, not M


def params(init: dict[str, Any], **more: Any) -> dict[str, torch.Tensor]:
    block = {
        "attention": {"num_heads": HEADS, "d_head": D, "bias": True, "term": {"kind": "t5_relative", "buckets": 64}},
        "mlp": {"kind": "gated", "d_ff": FF, "bias": True},
    }
    tree = {
        "kind": "decoder",
        "d_model": M,
        "vocab_size": VOCAB,
        "init": init,
        "stack": {"num_layers": LAYERS, "block": block},
    }
    return dict(read(ModelSpec, tree | more).build().named_parameters())


def spread(found: dict[str, torch.Tensor], ending: str) -> float:
    stds = [p.std().item() for name, p in found.items() if name.endswith(ending)]
    assert stds
    return sum(stds) / len(stds)


ALL_ROLES = ("q", "k", "v", "out", "up", "gate", "down", "token")

EXPECTED = {
    "normal": ({"kind": "normal", "scale": 0.05}, dict.fromkeys(ALL_ROLES, 0.05)),
    "depth_scaled": (
        {"kind": "depth_scaled"},
        dict.fromkeys(("q", "k", "v", "up", "gate", "token"), 0.02)
        | dict.fromkeys(("out", "down"), 0.02 / math.sqrt(2 * LAYERS)),
    ),
    "fan_in": (
        {"kind": "fan_in", "embedding": 0.3},
        dict.fromkeys(("q", "k", "v", "up", "gate"), M**-0.5) | {"out": (HEADS * D) ** -0.5, "down": FF**-0.5, "token": 0.3},
    ),
    "xavier": (
        {"kind": "xavier"},
        dict.fromkeys(("q", "k", "v", "out"), math.sqrt(2 / (M + HEADS * D)))
        | dict.fromkeys(("up", "gate", "down"), math.sqrt(2 / (M + FF)))
        | {"token": math.sqrt(2 / (VOCAB + M))},
    ),
    "unscaled_scores": (
        {"kind": "unscaled_scores", "d_head": D},
        {"q": (M * D) ** -0.5, "k": M**-0.5, "v": M**-0.5, "out": (HEADS * D) ** -0.5, "up": M**-0.5, "gate": M**-0.5,
         "down": FF**-0.5, "token": 1.0},
    ),
}  # fmt: skip


@pytest.mark.parametrize("scheme", EXPECTED)
def test_a_scheme_has_the_spread_it_promises(scheme: str) -> None:
    init, expected = EXPECTED[scheme]
    found = params(init)
    for role, std in expected.items():
        assert spread(found, f".{role}.weight") == pytest.approx(std, rel=0.05), role
    for name, parameter in found.items():
        assert not parameter.isnan().any()
        if name.endswith(".bias") and parameter.dim() == 1:
            assert not parameter.any(), name
        if "norm" in name and name.endswith("weight"):
            assert (parameter == 1).all(), name


def test_every_scheme_is_tried() -> None:
    from attnlib.nn.init import Init

    assert {name for name, kind in Init.kinds().items() if kind.__module__.startswith("attnlib.")} == set(EXPECTED)


def test_projections_to_the_stream_may_begin_at_zero() -> None:
    found = params({"kind": "fan_in", "zero_out": True})
    for name, parameter in found.items():
        if name.endswith((".out.weight", ".down.weight")):
            assert not parameter.any()
        elif name.endswith((".q.weight", ".up.weight")):
            assert parameter.any()


@pytest.mark.parametrize("attention", [{"kind": "softmax"}, {"kind": "latent"}, {"kind": "latent", "d_query_latent": 8}])
@pytest.mark.parametrize("mlp", [{"kind": "dense"}, {"kind": "mixture", "num_experts": 2, "top_k": 2}])
def test_what_begins_at_zero_does_not_stay_there(attention: dict[str, Any], mlp: dict[str, Any]) -> None:
    block = {"attention": attention | {"num_heads": HEADS}, "mlp": mlp | {"d_ff": FF}}
    stack = {"num_layers": 1, "block": block}
    init = {"kind": "fan_in", "zero_out": True}
    model = read(ModelSpec, {"kind": "encoder", "d_model": M, "vocab_size": VOCAB, "init": init, "stack": stack}).build()
    ids, wished = torch.arange(6)[None], torch.randn(1, 6, M)
    for _ in range(2):  # the first step moves what is zero, the second is met by all that stands before it
        model.zero_grad()
        (model(ids).last * wished).sum().backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.sub_(0.01 * parameter.grad)
    assert [name for name, p in model.named_parameters() if p.dim() > 1 and not p.grad.any()] == []


def test_forget_gates_of_an_lstm_begin_open_in_every_scheme() -> None:
    block = {"attention": {"kind": "lstm", "d_hidden": 3}, "mlp": {"kind": "dense", "d_ff": FF}}
    stack = {"num_layers": 1, "block": block}
    tree = {"kind": "encoder", "d_model": M, "vocab_size": VOCAB, "init": "xavier", "stack": stack}
    found = dict(read(ModelSpec, tree).build().named_parameters())
    for back in (0, 1):
        bias = found[f"stack.blocks.0.attention.body.cells.{back}.x.bias"]
        assert bias.tolist() == [0.0] * 3 + [1.0] * 3 + [0.0] * 6


def test_fan_in_keeps_the_variance_through_a_projection() -> None:
    found = params({"kind": "fan_in"})
    x = torch.randn(2000, M)
    assert (x @ found["stack.blocks.0.attention.body.v.weight"].T).std().item() == pytest.approx(1.0, rel=0.05)


def test_one_seed_one_model() -> None:
    torch.manual_seed(5)
    a = params({"kind": "normal"})
    torch.manual_seed(5)
    b = params({"kind": "normal"})
    assert all(torch.equal(a[name], b[name]) for name in a)
