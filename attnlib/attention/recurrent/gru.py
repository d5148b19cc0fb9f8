"""Gated recurrent units as a mixer."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from attnlib.attention.recurrent.fused import FusedCell
from attnlib.attention.recurrent.mixer import Cell, RecurrentSpec


class GRUCell(FusedCell):
    """h' = (1 - z) n + z h, n = tanh(W x + b + r (U h + c)), r and z sigmoids of W x + b + U h + c (Cho et al. 2014).

    As torch has it: r stands outside of U h + c.
    """

    gates: ClassVar[int] = 3
    names: ClassVar[tuple[str, ...]] = ("h",)

    def whole(self, x: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        y, h = torch.gru(x, state[0][None], self.weights(), True, 1, 0.0, self.training, False, True)
        return y, [h[0]]

    def one(self, x: Tensor, state: list[Tensor], weights: list[Tensor]) -> list[Tensor]:
        r, z, n = x.chunk(3, -1)
        hr, hz, hn = F.linear(state[0], weights[1], weights[3]).chunk(3, -1)
        z = (z + hz).sigmoid()
        return [torch.lerp((n + (r + hr).sigmoid() * hn).tanh(), state[0], z)]


class GRUSpec(RecurrentSpec, kind="gru"):
    """Gated recurrent units, token after token (Cho et al. 2014, arXiv:1406.1078)."""

    cell: ClassVar[type[Cell]] = GRUCell
