"""Convolutions over neighbouring tokens of one text."""

from __future__ import annotations

from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from attnlib.layout import Layout
from attnlib.nn.feed_forward import ACTIVATIONS, Activation
from attnlib.nn.norms import LayerNormSpec, Norm
from attnlib.spec import FieldError, Spec


class TokenConv(nn.Module):
    """y[t] = bias + sum over o of W[:, :, o] x[t + o - K // 2]: [B, T, M] -> [B, T, M], W [M, M / groups, K], K odd.

    Neighbours are columns. What is no token, or a token of another text, counts as zero, so that padding and packing
    change nothing.
    """

    def __init__(self, width: int, *, kernel: int, groups: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, width // groups, kernel))
        nn.init.normal_(self.weight, std=0.02)
        self.bias = nn.Parameter(torch.zeros(width))
        self.kernel, self.groups = kernel, groups

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        reach = self.kernel // 2
        if layout.segments is None:
            return F.conv1d(x.transpose(1, 2), self.weight, self.bias, padding=reach, groups=self.groups).transpose(1, 2)
        near = F.pad(x, (0, 0, reach, reach)).unfold(1, self.kernel, 1)  # [B, T, M, K]
        texts = F.pad(layout.segments, (reach, reach), value=-1).unfold(1, self.kernel, 1)  # [B, T, K]
        alike = (texts == layout.segments[..., None]) & (texts >= 0)
        near = near.masked_fill(~alike[:, :, None], 0.0).flatten(0, 1)
        return F.conv1d(near, self.weight, self.bias, groups=self.groups).view(x.shape)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, kernel={self.kernel}"


class ConvBranch(nn.Module):
    """norm(y + act(dropout(conv(x)))): what a block's input gives to its output y, both [B, T, M]."""

    def __init__(self, conv: TokenConv, *, activation: Activation, norm: nn.Module | None, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv, self.norm, self.activation, self.dropout = conv, norm, activation, dropout

    def forward(self, x: Tensor, y: Tensor, layout: Layout) -> Tensor:
        near = F.dropout(self.conv(x, layout), self.dropout, self.training)
        y = y + ACTIVATIONS[self.activation](near)
        return y if self.norm is None else self.norm(y)


class ConvSpec(Spec):
    """kernel: how many neighbours, an odd number. groups: so many groups of channels, apart. dropout: before activation."""

    kernel: int = Field(default=3, ge=1)
    groups: int = Field(default=1, ge=1)
    activation: Activation = "tanh"
    norm: Norm | None = LayerNormSpec()
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _centred(self) -> Self:
        if self.kernel % 2 == 0:
            raise FieldError("kernel", str(self.kernel), "must be odd, with as many tokens on either side")
        return self

    def build(self, d_model: int) -> ConvBranch:
        norm = None if self.norm is None else self.norm.build(d_model)
        conv = TokenConv(d_model, kernel=self.kernel, groups=self.groups)
        return ConvBranch(conv, activation=self.activation, norm=norm, dropout=self.dropout)
