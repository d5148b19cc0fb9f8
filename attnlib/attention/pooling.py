"""Which text of its row each token is of, and layouts of what several of its tokens share."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from attnlib.attention.linear.texts import Texts
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


def seats(layout: Layout, group: Tensor, number: int, each: int) -> Layout:
    """The layout of so many groups a text, `each` after another: places 0, 1, .. of the texts that their tokens are of.

    A group without a token is no token; every group of a whole text has one, where it has as many tokens.
    """
    if layout.segments is None and number == each and layout.tokens >= number:
        return Layout.dense(layout.batch, number, device=layout.device)
    text, real = text_of(layout)
    segments = torch.zeros_like(text) if layout.segments is None else layout.segments
    spare = torch.where(real, group, number)  # what is no token fills a seat that is cut off
    held = torch.full((layout.batch, number + 1), -1, device=text.device).scatter(1, spare, segments)[:, :number]
    places = (torch.arange(number, device=text.device) % each).expand_as(held)
    return Layout(places, held)
