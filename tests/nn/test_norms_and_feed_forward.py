"""Norms and feed-forward layers against torch and the published code."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from attnlib.layout import Layout
from attnlib.nn.embeddings import Sinusoidal
from attnlib.nn.feed_forward import Dense, Gated
from attnlib.nn.norms import LayerNorm, LayerNormSpec, RMSNorm, RMSNormSpec


def drawn(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.normal_(parameter, mean=0.5)
    return module


@pytest.mark.parametrize("eps", [1e-5, 1e-12, 0.3])
def test_layer_norm_is_torchs(eps: float) -> None:
    ours = drawn(LayerNorm(7, eps=eps))
    theirs = nn.LayerNorm(7, eps=eps)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, 7) * 1e-2
    assert torch.equal(ours(x), theirs(x))


@pytest.mark.parametrize("eps", [1e-6, 1e-5, 0.3])
def test_rms_norm_is_its_formula(eps: float) -> None:
    x = torch.randn(3, 7, dtype=torch.float64) * 1e-2
    ours = drawn(RMSNorm(7, eps=eps)).double()
    scaled = x / (x.square().mean(-1, keepdim=True) + eps).sqrt()
    assert torch.allclose(ours(x), scaled * ours.weight)
    assert torch.allclose(ours.float()(x.float()).double(), scaled * ours.weight.double(), rtol=1e-5)
    shifted = drawn(RMSNorm(7, eps=eps, unit_offset=True)).double()
    assert torch.allclose(shifted(x), scaled * (1 + shifted.weight))


def test_defaults_are_those_of_the_field() -> None:
    assert LayerNorm(3).eps == LayerNormSpec().eps == 1e-5
    assert RMSNorm(3).eps == RMSNormSpec().eps == 1e-6


def test_half_precision_norms_round_as_the_published_models_do() -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    assert transformers
    x = torch.randn(5, 33).bfloat16()
    for theirs, ours in (
        (LlamaRMSNorm(33, eps=1e-6), RMSNorm(33)),
        (GemmaRMSNorm(33, eps=1e-6), RMSNorm(33, unit_offset=True)),
    ):
        drawn(ours)
        theirs.weight.data.copy_(ours.weight.data)
        assert torch.equal(ours.bfloat16()(x), theirs.bfloat16()(x))


ACTIVATIONS = {
    "gelu": lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5)),
    "gelu_tanh": lambda x: 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))),
    "relu": lambda x: x.clamp(min=0),
    "squared_relu": lambda x: x.clamp(min=0) ** 2,
    "silu": lambda x: x / (1 + torch.exp(-x)),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_feed_forward_is_its_formula(activation: str) -> None:
    x, act = torch.randn(4, 5, dtype=torch.float64), ACTIVATIONS[activation]
    dense = Dense(d_model=5, d_ff=9, activation=activation).double()
    assert torch.allclose(dense(x), F.linear(act(dense.up(x)), dense.down.weight, dense.down.bias))
    gated = Gated(d_model=5, d_ff=9, activation=activation, bias=True).double()
    assert torch.allclose(gated(x), gated.down(act(gated.gate(x)) * gated.up(x)))


@pytest.mark.parametrize("width", [6, 7])
def test_sinusoids_are_those_of_the_paper(width: int) -> None:
    layout = Layout.dense(1, 4, start=3)
    table = Sinusoidal(width)(layout)[0]
    for row, position in enumerate(range(3, 7)):
        for i in range(width):
            angle = torch.tensor(position / 10000 ** (2 * (i // 2) / width))
            assert table[row, i].item() == pytest.approx((angle.sin() if i % 2 == 0 else angle.cos()).item(), abs=1e-5)
    half = Sinusoidal(6, order="half_split")(layout)[0]
    plain = Sinusoidal(6)(layout)[0]
    assert torch.equal(half, torch.cat([plain[:, 0::2], plain[:, 1::2]], 1))


def test_a_layer_norm_without_learned_weights_only_centres_and_scales():
    from attnlib.nn.norms import LayerNormSpec

    norm, x = LayerNormSpec(weight=False, bias=False).build(5), torch.randn(3, 5)
    assert not list(norm.parameters())
    assert torch.allclose(norm(x), (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-5).sqrt())
