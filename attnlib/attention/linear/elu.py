"""Linear attention with phi = elu + 1."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from attnlib.attention.linear.kernel import KernelAttention
from attnlib.attention.linear.mixer import LinearMixer, LinearMixerSpec


class EluAttention(KernelAttention):
    """phi(x) = elu(x) + 1 (Katharopoulos et al. 2020, arXiv:2006.16236)."""

    def features(self, x: Tensor, *, query: bool) -> Tensor:
        return torch.where(x > 0, x + 1, x.clamp(max=0.0).exp())


class LinearAttentionSpec(LinearMixerSpec, kind="linear"):
    """Kernel attention with phi = elu + 1, self or cross (Katharopoulos et al. 2020)."""

    mixer: ClassVar[type[LinearMixer]] = EluAttention
    crosses: ClassVar[bool] = True
