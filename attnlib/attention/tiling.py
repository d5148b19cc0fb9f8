"""Tiling: which columns each block of queries sees at all, found block by block from coordinates, never pair by pair.

First bounds of blocks are asked (`Mask.reach`), a grid of (Q / rows) x (K / columns) answers; then only inside the blocks
left over the mask itself, so that columns nobody sees fall out and what is left is exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from attnlib.attention.masks import Span
from attnlib.attention.visibility import Visibility
from attnlib.layout import Coordinates, Layout

COLUMNS = 32  # keys of a block
ROWS = (64, 128, 256)  # queries of a block: what there is to choose from
_AT_ONCE = 1 << 20  # pairs looked at together


class Band(NamedTuple):
    """Units, blocks of queries, that see equally many columns.

    plan, block: [n] which plan a unit is of and which block of queries. columns: [n, C] of the keys.
    seen: [n|1, H', rows, C] of H' heads, None = all.
    fold: (first column, shift) where the columns of a unit follow one another and so do the units.
    """

    plan: Tensor
    block: Tensor
    columns: Tensor
    seen: Tensor | None
    fold: tuple[int, int] | None


class Tiling(NamedTuple):
    """All units of a visibility. A plan is what some rows and heads share: `plans` = (of rows, of key heads)."""

    rows: int
    blocks: int
    plans: tuple[int, int]
    bands: tuple[Band, ...]
    complete: bool  # no block of queries is without a key


def tiling(sight: Visibility, groups: int) -> Tiling:
    """The units of a visibility of `groups` key heads, kept beside its layouts where they outlive the forward."""
    made: Tiling = sight.once(f"tiles {groups}", lambda: _tiling(sight, groups))
    return made


def columns_by_rows(sight: Visibility, rows: int) -> list[tuple[slice, slice | Tensor]]:
    """For each block of `rows` queries the columns that any of them, in any row and head, may see."""
    made: list[tuple[slice, slice | Tensor]] = sight.once(f"tiles of {rows}", lambda: _by_rows(sight, rows))
    return made


def cost(sight: Visibility) -> float | None:
    """Static: about which part of all pairs the blocks hold, from positions alone; None = not known to the host."""
    q, k = sight.q, sight.k
    starts = (q.start, k.start) if q.is_dense and k.is_dense else (0, 0) if q.extent and k.extent else None
    if starts is None or not q.tokens or not k.tokens:
        return None
    tokens = (q.tokens, k.tokens) if q.is_dense and k.is_dense else (q.extent or 0, k.extent or 0)
    key = ("cost of tiles", sight.mask, starts, tokens, sight.heads)
    made: float = q.once(key, lambda: _cost(sight, (starts[0] or 0, starts[1] or 0), tokens))
    return made


def _cost(sight: Visibility, starts: tuple[int, int], tokens: tuple[int, int]) -> float:
    sides = []
    for start, n, size, shape in zip(starts, tokens, (64, 64), ((-1, 1), (1, -1))):
        first = torch.arange(start, start + n, size, device="cpu")
        last = (first + size - 1).clamp(max=start + n - 1)
        head = torch.arange(sight.heads, device="cpu").view(-1, 1, 1) if sight.mask.by_head() else None
        # tags are few: what they add is not counted
        sides.append(Span(first.view(shape), last.view(shape), torch.zeros(1, 1, dtype=torch.long, device="cpu"), head))
    some = torch.as_tensor(sight.mask.reach(*sides).some, device="cpu")
    shape = torch.broadcast_shapes(some.shape, (-(-tokens[0] // 64), -(-tokens[1] // 64)))
    return some.expand(shape).double().mean().item()


class _Blocks(NamedTuple):
    """Blocks of the columns of one side of a batch."""

    span: Span
    segments: tuple[Tensor, Tensor]  # the least and the greatest of real tokens
    real: tuple[Tensor, Tensor]  # any of the block's tokens, all of them


def _blocks(layout: Layout, size: int, side: str) -> _Blocks:
    rows = slice(0, 1) if layout.is_dense else slice(None)
    shape = (-1, 1, -(-layout.tokens // size), 1) if side == "q" else (-1, 1, 1, -(-layout.tokens // size))

    def cut(t: Tensor | None, fill: int, how: str) -> Tensor:
        t = torch.zeros_like(layout.positions[rows]) if t is None else t[rows]
        if layout.segments is not None:
            t = torch.where(layout.segments[rows] >= 0, t, fill)
        t = torch.nn.functional.pad(t, (0, -layout.tokens % size), value=fill).unflatten(1, (-1, size))
        return (t.amin(2) if how == "least" else t.amax(2)).view(shape)

    far = 1 << 40
    least, most = cut(layout.positions, far, "least"), cut(layout.positions, -far, "most")
    any_real = least <= most
    real = torch.ones_like(layout.positions[rows]) if layout.segments is None else (layout.segments[rows] >= 0).long()
    real = torch.nn.functional.pad(real, (0, -layout.tokens % size)).unflatten(1, (-1, size)).amin(2).view(shape) > 0
    tags = layout.tags
    bits = None if tags is None else sum(cut(tags & bit, 0, "most") for bit in (1, 2))
    span = Span(least.where(any_real, 0), most.where(any_real, 0), torch.zeros_like(least) if bits is None else bits)
    segments = cut(layout.segments, far, "least"), cut(layout.segments, -far, "most")
    return _Blocks(span, segments, (any_real, real))


def _grid(sight: Visibility, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """[P, H|1, Q / rows, K / columns] bool twice: blocks where something may be seen, and where all is; P = B or 1."""
    q, k = _blocks(sight.q, rows, "q"), _blocks(sight.k, columns, "k")
    device = sight.q.device
    heads = torch.arange(sight.heads, device=device).view(-1, 1, 1) if sight.mask.by_head(device) else None
    found = sight.mask.reach(q.span._replace(head=heads), k.span._replace(head=heads))
    meet = (q.segments[1] >= k.segments[0]) & (k.segments[1] >= q.segments[0]) & q.real[0] & k.real[0]
    one = (q.segments[0] == q.segments[1]) & (k.segments[0] == k.segments[1]) & (q.segments[0] == k.segments[0])
    whole = one & k.real[1] & q.real[1]
    some, every = (torch.as_tensor(part, device=device) & also for part, also in zip(found, (meet, whole)))
    rows_alike, heads_alike = sight.mask.positional(), heads is None
    least = (1 if rows_alike else sight.q.batch, 1 if heads_alike else sight.heads, 1, 1)
    shape = torch.broadcast_shapes(some.shape, every.shape, least)
    return some.expand(shape), every.expand(shape)


def _best_rows(sight: Visibility) -> int:
    """Of the sizes of a block the one that computes least, small ones weighing more for what each costs by itself."""
    fine = _grid(sight, ROWS[0], ROWS[0])[0].flatten(0, 1)

    def area(rows: int) -> float:
        merged = torch.nn.functional.pad(fine, (0, 0, 0, -fine.shape[1] % (rows // ROWS[0])))
        merged = merged.unflatten(1, (-1, rows // ROWS[0])).any(2)
        return float(merged.sum()) * rows * (1 + 64 / rows)

    return min(ROWS, key=area)


def _tiling(sight: Visibility, groups: int) -> Tiling:
    rows = _best_rows(sight)
    some, every = _grid(sight, rows, COLUMNS)
    sieve = _Sieve(sight, rows, (some.shape[0], min(some.shape[1], groups)), groups, sight.mask.by_head(sight.q.device))
    if some.shape[1] > 1:
        some = some.unflatten(1, (groups, -1)).any(2)
        every = every.unflatten(1, (groups, -1)).all(2)
    plans, blocks = sieve.plans, some.shape[2]
    some, every = (part.flatten(0, 1) for part in (some, every))  # [plans, blocks, K / COLUMNS]
    counts = some.sum(2)
    bands: list[Band] = []
    for count in counts.unique().tolist():
        if count:
            plan, block = (counts == count).nonzero(as_tuple=True)
            tiles = some[plan, block].nonzero(as_tuple=True)[1].view(-1, count)
            bands += sieve.bands(plan, block, tiles, every[plan, block].gather(1, tiles))
    return Tiling(rows, blocks, plans, tuple(bands), sum(len(band.block) for band in bands) == counts.numel())


class _Sieve(NamedTuple):
    """Looks into blocks: the columns that are seen, and by whom."""

    sight: Visibility
    rows: int
    plans: tuple[int, int]
    groups: int
    heads_differ: bool

    def bands(self, plan: Tensor, block: Tensor, tiles: Tensor, every: Tensor) -> list[Band]:
        """Of units [n] that may see the same number of tiles [n, t], of which some are seen whole."""
        columns = (tiles[..., None] * COLUMNS + torch.arange(COLUMNS, device=tiles.device)).flatten(1)
        columns = columns.clamp(max=self.sight.k.tokens - 1)
        heads = self.sight.heads // self.groups if self.heads_differ else 1
        seen = every[:, None, None, :, None].repeat(1, heads, self.rows, 1, COLUMNS)
        unit, number = (~every).nonzero(as_tuple=True)
        size = max(1, _AT_ONCE // (self.rows * COLUMNS))
        for u, t in zip(unit.split(size), number.split(size)):
            seen[u, :, :, t] = self._seen(plan[u], block[u], tiles[u, t])
        seen = seen.flatten(3)
        needed = seen.flatten(1, 2).any(1)
        counts = needed.sum(1)
        counts = (counts + 7) // 8 * 8 if int(counts.max()) > 8 else counts  # a few more columns make fewer bands
        bands: list[Band] = []
        for count in counts.unique().tolist():
            of = counts == count
            count = min(count, columns.shape[1])
            if count:
                bands += self._packed(plan[of], block[of], columns[of], seen[of], needed[of], count)
        return bands

    def _packed(
        self, plan: Tensor, block: Tensor, columns: Tensor, seen: Tensor, needed: Tensor, count: int
    ) -> Iterator[Band]:
        """The same units with the columns that are needed alone."""
        if count < columns.shape[1]:
            first = needed.int().argmax(1, keepdim=True).clamp(max=columns.shape[1] - count)
            run = first + torch.arange(count, device=first.device)
            together = needed.gather(1, run).sum(1) == needed.sum(1)
            packed = (~needed).int().argsort(dim=1, stable=True)[:, :count]
            pick = run if bool(together.all()) else packed
            columns = columns.gather(1, pick)
            seen = seen.gather(3, pick[:, None, None].expand(*seen.shape[:3], count))
        fold = self._fold(block, columns)
        if fold is None and len(block) > 2 and self._fold(block[:-1], columns[:-1]) is not None:  # only the last is cut
            for part in (slice(0, -1), slice(-1, None)):
                yield self._band(plan[part], block[part], columns[part], seen[part])
        else:
            yield self._band(plan, block, columns, seen)

    def _band(self, plan: Tensor, block: Tensor, columns: Tensor, seen: Tensor) -> Band:
        if bool((seen == seen[:1]).all()):
            seen = seen[:1].clone()
        return Band(plan, block, columns, None if bool(seen.all()) else seen, self._fold(block, columns))

    def _fold(self, block: Tensor, columns: Tensor) -> tuple[int, int] | None:
        starts, count = columns[:, 0], columns.shape[1]
        along = columns == starts[:, None] + torch.arange(count, device=columns.device)
        if self.plans != (1, 1) or not bool(along.all()) or not bool((block.diff() == 1).all()):
            return None
        shifts = starts.diff()
        shift = int(shifts[0]) if len(shifts) else count
        return (int(starts[0]), shift) if shift > 0 and bool((shifts == shift).all()) else None

    def _seen(self, plan: Tensor, block: Tensor, tile: Tensor) -> Tensor:
        """[m, H', rows, COLUMNS] bool of single tiles [m]."""
        sight = self.sight
        at = block[:, None] * self.rows + torch.arange(self.rows, device=block.device)
        columns = tile[:, None] * COLUMNS + torch.arange(COLUMNS, device=tile.device)
        row = torch.div(plan, self.plans[1], rounding_mode="floor")
        q = self._coordinates(sight.q, row, at.clamp(max=sight.q.tokens - 1), plan, (-1, 1, self.rows, 1))
        k = self._coordinates(sight.k, row, columns.clamp(max=sight.k.tokens - 1), plan, (-1, 1, 1, COLUMNS))
        seen = sight.mask.visible(q, k)
        if sight.q.segments is not None or sight.k.segments is not None:
            seen = seen & (q.segment == k.segment) & (k.segment >= 0)
        return seen & (at < sight.q.tokens)[:, None, :, None] & (columns < sight.k.tokens)[:, None, None]

    def _coordinates(
        self, layout: Layout, row: Tensor, at: Tensor, plan: Tensor, shape: tuple[int, int, int, int]
    ) -> Coordinates:
        zero = torch.zeros(1, 1, 1, 1, dtype=torch.long, device=at.device)

        def lay(t: Tensor | None) -> Tensor:
            return zero if t is None else t[row[:, None], at].view(shape)

        head = zero
        if self.heads_differ:
            share = self.sight.heads // self.groups
            head = (plan % self.plans[1] * share)[:, None] + torch.arange(share, device=at.device)
            head = head[:, :, None, None]
        return Coordinates(lay(layout.positions), lay(layout.segments), at.view(shape), row.view(-1, 1, 1, 1), head,
                           lay(layout.tags))  # fmt: skip


def _by_rows(sight: Visibility, rows: int) -> list[tuple[slice, slice | Tensor]]:
    some = _grid(sight, rows, COLUMNS)[0].flatten(0, 1).any(0)  # [blocks, K / COLUMNS]
    found: list[tuple[slice, slice | Tensor]] = []
    for number, line in enumerate(some):
        here = slice(number * rows, min((number + 1) * rows, sight.q.tokens))
        tiles = line.nonzero()[:, 0]
        if not len(tiles):
            found.append((here, slice(0, 0)))
            continue
        columns = (tiles[:, None] * COLUMNS + torch.arange(COLUMNS, device=tiles.device)).flatten()
        columns = columns[columns < sight.k.tokens]
        first, last = int(columns[0]), int(columns[-1])
        found.append((here, slice(first, last + 1) if last - first + 1 == len(columns) else columns))
    return found
