"""Block routing: each query picks a few blocks of keys by their means, and attends to those alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from attnlib.attention.biases import Host, ScoreTerm, TermSpec, picked
from attnlib.attention.exact import exact
from attnlib.attention.masks import Mask, terms
from attnlib.attention.means import grouped_means
from attnlib.layout import Coordinates, Layout
from attnlib.spec import FieldError


class Blocks(NamedTuple):
    """The blocks of a row's keys, numbered as they come: of [B, K] the key's number; [B, N] the block's text, and its place
    in that text."""

    of: Tensor
    segment: Tensor
    place: Tensor


class BlockRouting(ScoreTerm):
    """0 for keys in the `count` blocks whose mean key meets the query best, -inf for others (MoBA, Lu et al. 2025).

    arXiv:2502.13189. A block is `size` positions of one text. The query's own block is always among them; a causal one picks
    the others among earlier blocks, which are whole, so that no cache changes them. The choice itself has no gradient.
    """

    static = False
    relative = False

    def __init__(self, *, size: int, count: int, causal: bool = True, own: bool = True) -> None:
        super().__init__()
        self.size, self.count, self.causal, self.own = size, count, causal, own

    def within(self, layouts: tuple[Layout, Layout], q: Tensor, k: Tensor) -> tuple[Tensor, ...]:
        """[B, H, Q, N] 0 or -inf of each block, and [B, K] the block of each key."""
        blocks: Blocks = layouts[1].once(("blocks", self.size), lambda: blocks_of(layouts[1], self.size))
        real = _segments(layouts[1]) >= 0
        place = layouts[0].positions[:, None, :, None] // self.size
        text = _segments(layouts[0])[:, None, :, None]
        same = (blocks.segment[:, None, None] == text) & (text >= 0)  # [B, 1, Q, N]
        theirs = blocks.place[:, None, None]
        mine = same & (theirs == place) if self.own else torch.zeros_like(same)
        able = same & ~mine & (theirs < place) if self.causal else same & ~mine
        mean = grouped_means(k.detach(), blocks.of, real, blocks.segment.shape[1])
        met = _met(q.detach(), mean).masked_fill(~able, -torch.inf)
        most = self.count - int(self.own)
        if most < met.shape[3]:
            able = able & (met >= met.topk(most, -1).values[..., -1:]) if most else torch.zeros_like(able)
        chosen = (able | mine).expand(*q.shape[:3], -1)
        return torch.zeros_like(met).masked_fill(~chosen, -torch.inf), blocks.of

    def score(self, tensors: tuple[Tensor, ...], q: Coordinates, k: Coordinates) -> Tensor:
        table, of = tensors
        if k.column.dim() == 0:  # in a compiled kernel
            return table[q.row, q.head, q.column, of[q.row, k.column]]
        return picked(table, q, of.index_select(1, k.column.flatten())[:, None, None])

    def extra_repr(self) -> str:
        return f"size={self.size}, count={self.count}, causal={self.causal}, own={self.own}"


def blocks_of(layout: Layout, size: int) -> Blocks:
    """Numbers of the blocks of each row; columns without a token belong to none, and point to the first."""
    segment, place = _segments(layout), layout.positions // size
    real = segment >= 0
    column = torch.where(real, torch.arange(layout.tokens, device=real.device), -1)
    before = F.pad(column.cummax(1).values[:, :-1], (1, 0), value=-1)  # the last token before
    last = before.clamp(min=0)
    begins = real & ((before < 0) | (segment.gather(1, last) != segment) | (place.gather(1, last) != place))
    of, most = (begins.cumsum(1) - 1).clamp(min=0), _most(layout, size)
    spare = torch.where(real, of, most)  # what is no token goes to a block that is cut off
    texts, places = (
        torch.full((layout.batch, most + 1), -1, device=of.device).scatter(1, spare, t)[:, :most] for t in (segment, place)
    )
    return Blocks(torch.where(real, of, 0), texts, places)


def _most(layout: Layout, size: int) -> int:
    """Static: no row has more blocks."""
    if layout.segments is None:
        return min(layout.tokens, -(-layout.tokens // size) + 1)
    if layout.runs is None:
        return layout.tokens
    counts = [0] * layout.batch
    for row, _, length in layout.runs:
        counts[row] += -(-length // size)
    return max(counts, default=0)


def _met(q: Tensor, mean: Tensor) -> Tensor:
    """[B, H, Q, N]."""
    grouped = exact(q).unflatten(1, (mean.shape[1], -1))
    found: Tensor = grouped @ mean[:, :, None].transpose(-1, -2)
    return found.flatten(1, 2)


def _segments(layout: Layout) -> Tensor:
    return torch.zeros_like(layout.positions) if layout.segments is None else layout.segments


class BlockRoutingSpec(TermSpec, kind="block_routing"):
    """Each query sees the `count` blocks of keys, its own among them, whose means it meets best (MoBA)."""

    by_head = False
    approximates = True
    size: int = Field(default=64, ge=1)
    count: int = Field(default=3, ge=1)

    def check(self, *, mask: Mask, cross: bool) -> None:
        form = terms(mask)
        if form.before is not None or form.rest is not None or form.after not in (None, 0):
            raise FieldError("kind", f"block_routing under a mask of kind {mask.kind}", "means are of whole blocks: wish "
                             "causal or everything")  # fmt: skip

    def build(self, *, num_heads: int, d_head: int) -> ScoreTerm:
        return BlockRouting(size=self.size, count=self.count)

    def of(self, attention: Host) -> ScoreTerm:
        causal = terms(attention.mask).after == 0
        return BlockRouting(size=self.size, count=self.count, causal=causal, own=not attention.crosses)

    def shared(self, attentions: Sequence[Host]) -> nn.Module:
        for attention in attentions:
            attention.rule.add(self.of(attention))
        return nn.Module()
