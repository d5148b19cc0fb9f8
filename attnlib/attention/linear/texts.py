"""Texts in a row as a recurrence must see them: what is no token changes nothing, and each text begins anew."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from attnlib.layout import Layout


class Texts(NamedTuple):
    """real [B, T]: which columns hold a token, None = all. runs [B, T]: how many texts began before, None = one a row.

    The first text of a row has number 0 and goes on with what a cache left. Texts stand one after the other in a row.
    """

    real: Tensor | None = None
    runs: Tensor | None = None

    @staticmethod
    def of(layout: Layout) -> Texts:
        """Read from a layout, once."""
        if layout.segments is None:
            return Texts()
        made: Texts = layout.once("texts", lambda: _read(layout))
        return made

    @staticmethod
    def backward(layout: Layout) -> Texts:
        """Of the columns in reverse order."""
        if layout.segments is None:
            return Texts()
        texts = Texts.of(layout)
        assert texts.real is not None
        if texts.runs is None:
            return Texts(texts.real.flip(1))
        made: Texts = layout.once("texts backward", lambda: Texts(texts.real.flip(1), _runs(layout.segments.flip(1))))  # type: ignore[union-attr]
        return made

    @property
    def begins(self) -> Tensor | None:
        """[B, T] the first token of each text but the first; None where no row has a second."""
        return None if self.runs is None else self.runs != F.pad(self.runs[:, :-1], (1, 0))

    def keep(self, x: Tensor, dim: int = 1) -> Tensor:
        """x, zero where there is no token; its tokens are dimension `dim`."""
        if self.real is None:
            return x
        shape = [1] * x.dim()
        shape[0], shape[dim] = self.real.shape
        return x.masked_fill(~self.real.view(shape), 0.0)


def _read(layout: Layout) -> Texts:
    assert layout.segments is not None
    rows = None if layout.runs is None else [row for row, _, _ in layout.runs]
    alone = rows is not None and len(set(rows)) == len(rows)  # known to the host: at most one text a row
    return Texts(layout.segments >= 0, None if alone else _runs(layout.segments))


def _runs(segments: Tensor) -> Tensor:
    """[B, T] how many texts began in the row, up to each column, the first not counted."""
    real = segments >= 0
    column = torch.where(real, torch.arange(segments.shape[1], device=segments.device), -1)
    before = F.pad(column.cummax(1).values[:, :-1], (1, 0), value=-1)  # the last token before
    begins = real & (before >= 0) & (segments.gather(1, before.clamp(min=0)) != segments)
    return begins.long().cumsum(1)
