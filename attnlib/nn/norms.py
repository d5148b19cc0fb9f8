"""Normalisations over the last dimension."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from attnlib.spec import Spec

CastOrder = Literal["cast_then_scale", "scale_then_cast"]


class Norm(Spec, slot="norm"):
    """What keeps activations at one size."""

    def build(self, width: int) -> nn.Module:
        raise NotImplementedError


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(var + eps) * weight + bias (Ba et al. 2016)."""

    def __init__(self, width: int, *, eps: float = 1e-5, bias: bool = True, weight: bool = True) -> None:
        super().__init__()
        self.width, self.eps = width, eps
        self.weight = nn.Parameter(torch.ones(width)) if weight else None
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (self.width,), self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.width}, eps={self.eps}"


class LayerNormSpec(Norm, kind="layer"):
    """Centres and scales; bias: false leaves the learned shift out, weight: false the learned scale."""

    eps: float = Field(default=1e-5, gt=0)
    bias: bool = True
    weight: bool = True

    def build(self, width: int) -> nn.Module:
        return LayerNorm(width, eps=self.eps, bias=self.bias, weight=self.weight)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight, computed in fp32 (Zhang & Sennrich 2019).

    unit_offset multiplies by 1 + weight (Gemma). cast says what happens in half precision: cast to the input's dtype
    before the weight (Llama) or after it (Gemma, OLMo 2).
    """

    def __init__(
        self, width: int, *, eps: float = 1e-6, unit_offset: bool = False, cast: CastOrder = "cast_then_scale"
    ) -> None:
        super().__init__()
        self.width, self.eps, self.unit_offset, self.cast = width, eps, unit_offset, cast
        self.weight = nn.Parameter(torch.zeros(width) if unit_offset else torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.float32 and not self.unit_offset and self.weight.dtype == x.dtype:
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        exact = exact * torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + self.eps)
        if self.cast == "cast_then_scale" and not self.unit_offset:
            return self.weight.to(x.dtype) * exact.to(x.dtype)
        weight = self.weight.to(exact.dtype)
        return (exact * (1.0 + weight if self.unit_offset else weight)).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.width}, eps={self.eps}" + (", unit_offset" if self.unit_offset else "")


class RMSNormSpec(Norm, kind="rms"):
    """Scales by the root mean square; unit_offset: weights are stored as w - 1; cast: rounding in half precision."""

    eps: float = Field(default=1e-6, gt=0)
    unit_offset: bool = False
    cast: CastOrder = "cast_then_scale"

    def build(self, width: int) -> nn.Module:
        return RMSNorm(width, eps=self.eps, unit_offset=self.unit_offset, cast=self.cast)
