"""Nonlinear cells: torch's own kernels where texts stand in rows of their own, else one token after the other."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from attnlib.attention.exact import exact
from attnlib.attention.linear.texts import Texts
from attnlib.attention.recurrent.mixer import Cell, States
from attnlib.attention.recurrent.rows import TextRows
from attnlib.layout import Layout
from attnlib.nn.linear import Linear


class FusedCell(Cell):
    """A cell of `gates` blocks, W x + b of the input and W h + b of the state, in torch's order."""

    gates: ClassVar[int]
    names: ClassVar[tuple[str, ...]]  # of the tensors of a state [B, N]

    def __init__(self, d_model: int, d_hidden: int) -> None:
        super().__init__()
        self.x, self.h = Linear(d_model, self.gates * d_hidden), Linear(d_hidden, self.gates * d_hidden)
        self.width = d_hidden

    def weights(self) -> list[Tensor]:
        """As torch's kernels take them."""
        return [exact(t) for t in (self.x.weight, self.h.weight, self.x.bias, self.h.bias)]

    def whole(self, x: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """h [B, T, N] of full rows, and the state after."""
        raise NotImplementedError

    def one(self, x: Tensor, state: list[Tensor], weights: list[Tensor]) -> list[Tensor]:
        """The state after one token, whose W x + b is given as x [B, gates N]; h comes first."""
        raise NotImplementedError

    def forward(self, x: Tensor, layout: Layout, held: States, *, back: bool, keep: bool) -> tuple[Tensor, States]:
        state = [held[name] for name in self.names] if held else self._begin(x)
        if layout.segments is None:
            y, state = self.whole(x.flip(1) if back else x, state)
            return (y.flip(1) if back else y), dict(zip(self.names, state))
        rows = None if keep else TextRows.of(layout, back=back)
        if rows is not None:
            return rows.apply(x, lambda texts: self.whole(texts, self._begin(texts))[0]), {}
        return self._by_token(x, layout, state, back)

    def how(self, layout: Layout, *, keep: bool) -> str:
        if layout.segments is None:
            return "torch's kernel, token after token"
        one_by_one = keep or TextRows.of(layout, back=False) is None
        return "token after token in eager steps" if one_by_one else "torch's kernel, token after token, each text a row"

    def _begin(self, x: Tensor) -> list[Tensor]:
        return [x.new_zeros(x.shape[0], self.width) for _ in self.names]

    def _by_token(self, x: Tensor, layout: Layout, state: list[Tensor], back: bool) -> tuple[Tensor, States]:
        """Rows with pads between their tokens, or with a state that goes on; pads leave the state as it is."""
        texts, weights = Texts.backward(layout) if back else Texts.of(layout), self.weights()
        x = torch.nn.functional.linear(x.flip(1) if back else x, weights[0], weights[2])
        real, begins, found = texts.real, texts.begins, []
        assert real is not None
        for t in range(x.shape[1]):
            before = state if begins is None else [s.masked_fill(begins[:, t, None], 0.0) for s in state]
            after = self.one(x[:, t], before, weights)
            state = [torch.where(real[:, t, None], a, s) for a, s in zip(after, state)]
            found.append(state[0])
        y = torch.stack(found, 1) if found else x.new_zeros(*x.shape[:2], self.width)
        return (y.flip(1) if back else y), dict(zip(self.names, state))
