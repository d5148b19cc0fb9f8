"""Differential attention: two maps a head, one taken from the other, so that what both see of noise goes."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn

from attnlib.attention.backends.protocol import AttentionCall
from attnlib.attention.exact import exact
from attnlib.attention.rotary import Turn
from attnlib.attention.scope import Scope
from attnlib.attention.softmax import SoftmaxAttention, SoftmaxAttentionSpec
from attnlib.nn.norms import RMSNorm
from attnlib.spec import FieldError


class DifferentialAttention(SoftmaxAttention):
    """(softmax(q1 k1) - l softmax(q2 k2)) v, normed and times 1 - l0 (Ye et al. 2024, arXiv:2410.05258).

    l = exp(a1 . b1) - exp(a2 . b2) + l0, vectors shared by the heads; l0 = 0.8 - 0.6 exp(-0.3 layer), layers from 0. Of
    `num_heads` maps the first half are the q1 k1 of num_heads / 2 heads, whose values are 2 D wide; terms, masks and
    normalisers see the maps.
    """

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.first = 0.8 - 0.6
        self.a, self.b = (nn.Parameter(torch.empty(2, self.d_head)) for _ in range(2))
        self.norm = RMSNorm(2 * self.d_head, eps=1e-5)
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """l begins near l0."""
        for vectors in (self.a, self.b):
            nn.init.normal_(vectors, std=0.1)

    def less(self) -> Tensor:
        """l, how much of the second map is taken from the first."""
        one, two = (exact(self.a) * exact(self.b)).sum(1).exp().unbind()
        return one - two + self.first

    def _entry(self, x: Tensor, turn: Turn | None) -> dict[str, Tensor]:
        values: Tensor = self.v(x).unflatten(-1, (self.num_kv_heads // 2, -1)).transpose(-3, -2)
        return {"k": self._keys(x, turn), "v": values}  # [B, G / 2, T, 2 D]

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall, scope: Scope) -> Tensor:
        return super()._attend(q, k, torch.cat([v, v], 1), call, scope)  # one call, so that one door sees all maps

    def finish(self, x: Tensor, y: Tensor) -> Tensor:
        one, two = y.chunk(2, 1)  # [B, H / 2, T, 2 D] each
        y = self.norm(one - self.less().to(y.dtype) * two).to(y.dtype) * (1 - self.first)
        return super().finish(x, y)


class DifferentialAttentionSpec(SoftmaxAttentionSpec, kind="differential"):
    """The difference of two softmax maps a head (Ye et al. 2024), self or cross.

    num_heads and num_kv_heads count maps, two a head, so that widths and weights are those of softmax attention.
    """

    made: ClassVar[type[SoftmaxAttention]] = DifferentialAttention

    @model_validator(mode="after")
    def _pairs(self) -> Self:
        for name in ("num_heads", "num_kv_heads"):
            if (getattr(self, name) or 2) % 2:
                raise FieldError(name, str(getattr(self, name)), "must be even: two maps a head")
        return self

    def build(self, *, d_model: int, layer: int, d_memory: int | None = None) -> nn.Module:
        built = super().build(d_model=d_model, layer=layer, d_memory=d_memory)
        assert isinstance(built, DifferentialAttention)
        built.first = 0.8 - 0.6 * math.exp(-0.3 * layer)
        return built
