"""Feed-forward layers: what works on each token alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from attnlib.nn.linear import Linear, linear_gelu
from attnlib.spec import Spec

Activation = Literal["gelu", "gelu_tanh", "relu", "squared_relu", "silu", "tanh"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "squared_relu": lambda x: F.relu(x).square(),
    "silu": F.silu,
    "tanh": torch.tanh,
}


class FeedForward(Spec, slot="mlp"):
    """What each token goes through alone."""

    def build(self, d_model: int) -> nn.Module:
        raise NotImplementedError


class Dense(nn.Module):
    """down(act(up(x))): [.., M] -> [.., F] -> [.., M]."""

    def __init__(self, *, d_model: int, d_ff: int, activation: Activation, bias: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        self.up = Linear(d_model, d_ff, bias=bias)
        self.down = Linear(d_ff, d_model, bias=bias)
        self.activation, self.dropout = activation, dropout

    def forward(self, x: Tensor) -> Tensor:
        hidden = linear_gelu(self.up, x, self.activation)
        if hidden is None:
            hidden = ACTIVATIONS[self.activation](self.up(x))
        if self.dropout and self.training:
            hidden = F.dropout(hidden, self.dropout)
        return self.down(hidden)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        return self.activation


class DenseSpec(FeedForward, kind="dense"):
    """Two projections around an activation; dropout acts between them."""

    d_ff: int = Field(ge=1)
    activation: Activation = "gelu"
    bias: bool = True
    dropout: float = Field(default=0.0, ge=0, lt=1)

    def build(self, d_model: int) -> nn.Module:
        return Dense(d_model=d_model, d_ff=self.d_ff, activation=self.activation, bias=self.bias, dropout=self.dropout)


class Gated(nn.Module):
    """down(act(gate(x)) * up(x)) (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, *, d_model: int, d_ff: int, activation: Activation, bias: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.gate = Linear(d_model, d_ff, bias=bias)
        self.up = Linear(d_model, d_ff, bias=bias)
        self.down = Linear(d_ff, d_model, bias=bias)
        self.activation, self.dropout = activation, dropout

    def forward(self, x: Tensor) -> Tensor:
        hidden = ACTIVATIONS[self.activation](self.gate(x)) * self.up(x)
        if self.dropout and self.training:
            hidden = F.dropout(hidden, self.dropout)
        return self.down(hidden)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        return self.activation


class GatedSpec(FeedForward, kind="gated"):
    """Three projections, one of which gates; SwiGLU with silu, GeGLU with gelu."""

    d_ff: int = Field(ge=1)
    activation: Activation = "silu"
    bias: bool = False
    dropout: float = Field(default=0.0, ge=0, lt=1)

    def build(self, d_model: int) -> nn.Module:
        return Gated(d_model=d_model, d_ff=self.d_ff, activation=self.activation, bias=self.bias, dropout=self.dropout)
