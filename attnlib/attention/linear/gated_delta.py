"""The gated delta rule: the whole state decays before the delta rule changes it."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from attnlib.attention.linear.decay import TokenDecay
from attnlib.attention.linear.delta import DeltaRule
from attnlib.attention.linear.mixer import LinearMixer, LinearMixerSpec
from attnlib.attention.linear.steps import Steps


class GatedDeltaRule(DeltaRule):
    """S_t = a_t (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T, a_t = exp(-exp(rate) softplus(W x_t + bias)); heads gated too.

    Yang et al. 2024, arXiv:2412.06464.
    """

    gated: ClassVar[bool] = True

    def __init__(self, *, d_model: int, **given: Any) -> None:
        super().__init__(d_model=d_model, **given)
        self.decay = TokenDecay(d_model, self.heads.kv)

    def steps(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Steps:
        _, decay = self.decay(x)
        return super().steps(x, q, k, v)._replace(decay=decay.to(k.dtype))


class GatedDeltaSpec(LinearMixerSpec, kind="gated_delta"):
    """The delta rule over a state that decays as the token says (Yang et al. 2024)."""

    mixer: ClassVar[type[LinearMixer]] = GatedDeltaRule
