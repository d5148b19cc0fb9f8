"""Gated linear attention: each channel of the keys decays as the token says."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from attnlib.attention.linear.mixer import LinearMixer, LinearMixerSpec
from attnlib.attention.linear.steps import Steps
from attnlib.nn.linear import Linear

RANK, TEMPERATURE = 16, 16.0


class GatedLinearAttention(LinearMixer):
    """S_t = diag(a_t) S_{t-1} + k_t v_t^T, a_t = sigmoid(W2 W1 x_t + b)^(1/16), each head normed and gated.

    Yang et al. 2023, arXiv:2312.06635.
    """

    gated: ClassVar[bool] = True

    def __init__(self, *, d_model: int, **given: Any) -> None:
        super().__init__(d_model=d_model, **given)
        width = self.heads.kv * self.heads.d_key
        self.decay = nn.Sequential(Linear(d_model, min(RANK, width), bias=False), Linear(min(RANK, width), width))

    def steps(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Steps:
        decay = F.logsigmoid(self._split(self.decay(x), self.heads.d_key).to(k.dtype)) / TEMPERATURE
        return Steps(self.grouped(q), k, v, decay)


class GatedLinearSpec(LinearMixerSpec, kind="gla"):
    """A state whose channels decay by the token's own gates (Yang et al. 2023)."""

    mixer: ClassVar[type[LinearMixer]] = GatedLinearAttention
