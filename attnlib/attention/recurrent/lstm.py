"""Long short-term memory as a mixer."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from attnlib.attention.recurrent.fused import FusedCell
from attnlib.attention.recurrent.mixer import Cell, RecurrentSpec


class LSTMCell(FusedCell):
    """c' = f c + i g, h' = o tanh(c'), i, f, o sigmoids and g a tanh of W x + b + U h + d.

    Hochreiter & Schmidhuber 1997. b of f begins at 1, so that the state is kept at first (Gers et al. 2000; Jozefowicz et
    al. 2015): from 0 it halves at every token, and nothing far is learned.
    """

    gates: ClassVar[int] = 4
    names: ClassVar[tuple[str, ...]] = ("h", "c")

    def __init__(self, d_model: int, d_hidden: int) -> None:
        super().__init__(d_model, d_hidden)
        self.after_init()

    @torch.no_grad()
    def after_init(self) -> None:
        """Set the forget gates' bias, after an initialisation of all others."""
        assert self.x.bias is not None
        self.x.bias[self.width : 2 * self.width] = 1.0

    def whole(self, x: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        y, h, c = torch.lstm(x, [t[None] for t in state], self.weights(), True, 1, 0.0, self.training, False, True)
        return y, [h[0], c[0]]

    def one(self, x: Tensor, state: list[Tensor], weights: list[Tensor]) -> list[Tensor]:
        i, f, g, o = (x + F.linear(state[0], weights[1], weights[3])).chunk(4, -1)
        c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
        return [o.sigmoid() * c.tanh(), c]


class LSTMSpec(RecurrentSpec, kind="lstm"):
    """Long short-term memory, token after token (Hochreiter & Schmidhuber 1997, doi:10.1162/neco.1997.9.8.1735)."""

    cell: ClassVar[type[Cell]] = LSTMCell
