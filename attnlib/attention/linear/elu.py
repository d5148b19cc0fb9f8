"""Linear attention with phi = elu + 1."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from attnlib.attention.linear.kernel import KernelAttention
from attnlib.attention.linear.mixer import LinearMixer, LinearMixerSpec


class EluAttention(KernelAttention):
    """phi(x) = elu(x) + 1 (Katharopoulos et al. 2020, arXiv:2006.16236)."""

    def features(self, x: Tensor, *, query: bool) -> Tensor:
        return F.relu(x) + x.clamp(max=0.0).exp()  # elu + 1, whose gradient at 0 is 1 too


class LinearAttentionSpec(LinearMixerSpec, kind="linear"):
    """Kernel attention with phi = elu + 1, self or cross (Katharopoulos et al. 2020)."""

    mixer: ClassVar[type[LinearMixer]] = EluAttention
    crosses: ClassVar[bool] = True
