"""The delta rule: a token replaces what its key recalls, rather than adding to it."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional as F

from attnlib.attention.linear.mixer import LinearMixer, LinearMixerSpec
from attnlib.attention.linear.steps import Steps
from attnlib.nn.linear import Linear


class DeltaRule(LinearMixer):
    """S_t = (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T, b_t = sigmoid(W x_t), q and k = silu(.) of length 1, heads normed.

    Schlag et al. 2021, arXiv:2102.11174, with the features of Yang et al. 2024, arXiv:2406.06484.
    """

    def __init__(self, *, d_model: int, **given: Any) -> None:
        super().__init__(d_model=d_model, **given)
        self.beta = Linear(d_model, self.heads.kv, bias=False)

    def keys(self, x: Tensor) -> Tensor:
        """Of length 1; silu stands in the short convolution, where there is one."""
        return F.normalize(x if self.conv is not None else F.silu(x), dim=-1, eps=1e-6)

    def steps(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Steps:
        beta = self.beta(x).to(k.dtype).sigmoid().transpose(1, 2)
        return Steps(self.grouped(q), k, v, None, beta)

    def made(self, steps: Steps) -> Steps:
        return steps._replace(q=self.keys(steps.q), k=self.keys(steps.k))


class DeltaSpec(LinearMixerSpec, kind="delta"):
    """A state that forgets what a key held before it holds the new value (DeltaNet, Yang et al. 2024)."""

    mixer: ClassVar[type[LinearMixer]] = DeltaRule
