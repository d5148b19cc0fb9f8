"""Which text of its row each token is of, and layouts of what several of its tokens share."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from attnlib.attention.linear.texts import Texts
from attnlib.errors import LayoutError
from attnlib.layout import Layout


def texts_a_row(layout: Layout) -> int:
    """No row of the layout holds more texts. By what the host knows; a layout of tensors alone is read, once."""
    runs = Texts.of(layout).runs
    if runs is None:
        return 1
    if layout.runs is not None:
        return max(Counter(row for row, _, _ in layout.runs).values(), default=1)
    if layout.counts is not None:  # made of a mask: one text a row, with holes
        return 1
    most: int = layout.once("texts a row", lambda: int(runs.max()) + 1 if runs.numel() else 1)
    return most


def text_of(layout: Layout) -> tuple[Tensor, Tensor]:
    """[B, T] the number of each token's text among those of its row, and which columns hold a token."""
    texts = Texts.of(layout)
    real = torch.ones_like(layout.positions, dtype=torch.bool) if texts.real is None else texts.real
    return torch.zeros_like(layout.positions) if texts.runs is None else texts.runs, real


def seats(layout: Layout, group: Tensor, number: int, each: int, *, full: bool = False) -> Layout:
    """The layout of so many groups a text, `each` after another: places 0, 1, .. of the texts that their tokens are of.

    A group without a token is no token; full: a text of all columns leaves none without.
    """
    if full and layout.segments is None:
        return Layout.dense(layout.batch, number, device=layout.device)
    text, real = text_of(layout)
    segments = torch.zeros_like(text) if layout.segments is None else layout.segments
    spare = torch.where(real, group, number)  # what is no token fills a seat that is cut off
    held = torch.full((layout.batch, number + 1), -1, device=text.device).scatter(1, spare, segments)[:, :number]
    places = (torch.arange(number, device=text.device) % each).expand_as(held)
    return Layout(places, held)


def refuse_beyond(layout: Layout, most: int | None, path: str) -> None:
    """Raises LayoutError for a text of more than `most` tokens, where the host knows its length."""
    extent = layout.extent if layout.start is None else layout.start + layout.tokens
    if most is not None and extent is not None and extent > most:
        raise LayoutError(path, f"a text of {extent} tokens", f"is projected up to {most}")
