"""Texts as rows: each text of a packed or padded batch in a row of its own, from its first token on, or from its last."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from attnlib.layout import Layout, Runs


class TextRows:
    """Where every token of the texts stands in the batch, and where in [texts, longest]."""

    def __init__(self, runs: Runs, layout: Layout, *, back: bool) -> None:
        self.shape = (len(runs), max(n for _, _, n in runs))
        there, here = [], []
        for number, (row, first, n) in enumerate(runs):
            columns = torch.arange(n).flip(0) if back else torch.arange(n)
            there.append(row * layout.tokens + first + columns)
            here.append(number * self.shape[1] + torch.arange(n))
        self.there, self.here = (torch.cat(each).to(layout.device) for each in (there, here))

    @staticmethod
    def of(layout: Layout, *, back: bool) -> TextRows | None:
        """None where the host does not know the texts."""
        runs = layout.runs
        if not runs:
            return None
        made: TextRows = layout.once(("text rows", back), lambda: TextRows(runs, layout, back=back))
        return made

    def apply(self, x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        """f of the rows [texts, longest, ..], its outputs back in the batch [B, T, ..]; zeros where no token is."""
        flat = x.flatten(0, 1)
        rows = flat.new_zeros(self.shape[0] * self.shape[1], x.shape[2]).index_copy(0, self.here, flat[self.there])
        y = f(rows.unflatten(0, self.shape)).flatten(0, 1)
        return y.new_zeros(len(flat), y.shape[1]).index_copy(0, self.there, y[self.here]).unflatten(0, x.shape[:2])  # type: ignore[no-any-return]
