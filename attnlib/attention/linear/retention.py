"""Retention: a fixed decay a head."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from attnlib.attention.linear.mixer import LinearMixer, LinearMixerSpec
from attnlib.attention.linear.steps import Steps


class Retention(LinearMixer):
    """y_t = sum over j <= t of gamma_g^(t - j) (q_t k_j / sqrt D) v_j, gamma_g = 1 - 2^(-5 - g), each head normed, gated.

    Sun et al. 2023, arXiv:2307.08621; their rotation of q and k is `rotary`. Heads that share keys share a decay.
    """

    gated: ClassVar[bool] = True
    activation: ClassVar[bool] = False

    def steps(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Steps:
        head = torch.arange(self.heads.kv, device=k.device, dtype=k.dtype)
        decay = torch.log1p(-torch.exp2(-5.0 - head))[:, None].expand(k.shape[:3])
        return Steps(self.grouped(q * self.heads.d_key**-0.5), k, v, decay)


class RetentionSpec(LinearMixerSpec, kind="retention"):
    """A state that decays by a constant of each head (RetNet, Sun et al. 2023)."""

    mixer: ClassVar[type[LinearMixer]] = Retention
