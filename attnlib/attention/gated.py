"""Gated attention: what a head gives is let through by a gate of the token that asked."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from attnlib.attention.softmax import SoftmaxAttention, SoftmaxAttentionSpec
from attnlib.nn.linear import Linear

Gates = Literal["head", "channel"]


class GatedAttention(SoftmaxAttention):
    """W (sigmoid(G x) * heads): softmax attention whose heads y [B, H, T, D] are gated before the last projection.

    One gate a head, or one for each of its channels (Qiu et al. 2025, arXiv:2505.06708).
    """

    def __init__(self, *, d_model: int, **given: Any) -> None:
        super().__init__(d_model=d_model, **given)
        self.gate: nn.Module | None = None

    def gated_by(self, gates: Gates, d_model: int) -> None:
        """Make the gates."""
        self.gate = Linear(d_model, self.num_heads * (1 if gates == "head" else self.d_head), bias=False)

    def finish(self, x: Tensor, y: Tensor) -> Tensor:
        if self.gate is not None:
            gates = torch.sigmoid(self.gate(x)).unflatten(-1, (self.num_heads, -1))
            y = y * gates.transpose(1, 2).to(y.dtype)  # [B, H, T, 1 or D]
        return super().finish(x, y)


class GatedAttentionSpec(SoftmaxAttentionSpec, kind="gated"):
    """Softmax attention whose heads pass a sigmoid gate, self or cross.

    gate: head (one of each head) or channel. All else as in softmax attention.
    """

    gate: Gates = "head"
    made: ClassVar[type[SoftmaxAttention]] = GatedAttention

    def build(self, *, d_model: int, layer: int, d_memory: int | None = None) -> nn.Module:
        built = super().build(d_model=d_model, layer=layer, d_memory=d_memory)
        assert isinstance(built, GatedAttention)
        built.gated_by(self.gate, d_model)
        return built
