"""A state-space layer with a scalar transition of each head: Mamba-2's SSD."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from attnlib.attention.linear.decay import TokenDecay
from attnlib.attention.linear.mixer import Heads, LinearMixer, LinearMixerSpec
from attnlib.attention.linear.steps import Steps
from attnlib.attention.scope import Scope
from attnlib.attention.softmax import Role
from attnlib.layout import Layout
from attnlib.nn.norms import RMSNorm
from attnlib.spec import FieldError


class StateSpace(LinearMixer):
    """S_t = exp(-exp(rate) dt_t) S_{t-1} + k_t (dt_t v_t)^T, y_t = S_t^T q_t + d v_t, then norm(y silu(W x)) over all heads.

    Dao & Gu 2024, arXiv:2405.21060: q is their C and k their B, one pair for all heads of a group; v is their x. dt_t =
    softplus(W x_t + bias).
    """

    gated: ClassVar[bool] = True
    normed: ClassVar[bool] = False

    def __init__(self, *, d_model: int, heads: Heads, **given: Any) -> None:
        super().__init__(d_model=d_model, heads=heads, **given)
        self.decay, self.skip = TokenDecay(d_model, heads.kv), Skip(heads.kv)
        self.norm = RMSNorm(heads.num * heads.d_value)

    def steps(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Steps:
        step, decay = self.decay(x)
        q, k = (t.repeat_interleave(self.heads.kv // t.shape[1], 1) for t in (q, k))
        return Steps(self.grouped(q), k, v * step[..., None].to(v.dtype), decay.to(k.dtype))

    def mix(
        self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, layout: Layout, scope: Scope, held: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        y, left = super().mix(x, q, k, v, layout, scope, held)
        return y + self.skip(v), left

    def finish(self, x: Tensor, y: Tensor) -> Tensor:
        assert self.norm is not None and self.gate is not None
        y = y.transpose(1, 2).flatten(2) * F.silu(self.gate(x))
        return self.out(self.norm(y).to(y.dtype))  # type: ignore[no-any-return]


class Skip(nn.Module):
    """d v, one d a head: [B, H, T, E] -> the same; begins at 1."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(heads))

    def forward(self, v: Tensor) -> Tensor:
        return v * self.weight.to(v.dtype)[:, None, None]


class StateSpaceSpec(LinearMixerSpec, kind="ssd"):
    """Mamba-2's state-space duality (Dao & Gu 2024): one q and k a group of heads, whose decay each token sets.

    d_state: width of q and k. groups: of heads that share them. d_head: width of the values, null = 2 d_model / num_heads.
    """

    d_state: int = Field(default=64, ge=1)
    groups: int = Field(default=1, ge=1)
    mixer: ClassVar[type[LinearMixer]] = StateSpace

    def sizes(self, d_model: int) -> Heads:
        width = self.d_head or 2 * d_model // self.num_heads
        return Heads(self.num_heads, self.num_heads, self.d_state, width, self.groups)

    def check(self, *, d_model: int, role: Role) -> None:
        super().check(d_model=d_model, role=role)
        if self.num_kv_heads is not None or self.d_value is not None:
            name = "num_kv_heads" if self.num_kv_heads is not None else "d_value"
            raise FieldError(name, "given for ssd", "heads share q and k by groups, and d_head is the width of their values")
        if self.num_heads % self.groups:
            raise FieldError("groups", str(self.groups), f"must divide num_heads ({self.num_heads})")
