"""The weights of one attention call, a block of query rows at a time: what recording and its summaries are made from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from attnlib.attention.backends.protocol import AttentionCall
from attnlib.attention.backends.reference import Bound, exact, weights
from attnlib.errors import UsageError
from attnlib.layout import Layout

TILE = 1 << 22  # weights of a block, of all rows of the batch
LEAST, MOST, WISHED = 16, 256, 128  # query rows of a block; heads are taken in turns where fewer would fit

Heads = tuple[int, ...] | None
Make = Callable[[slice, slice], Tensor]  # (query columns, key columns) -> [B, h, R, N] weights
See = Callable[[slice, slice, slice], Tensor | None]  # (heads, query columns, key columns) -> [B|1, h|1, R, N], None = all


class Block(NamedTuple):
    """Weights [B, h, R, N] of some of the heads asked for, of the query columns `rows` over the key columns `keys`."""

    heads: slice
    rows: slice
    keys: slice
    weights: Tensor


class Application(NamedTuple):
    """One application of attention: where its tokens stand, and its weights made for a block of rows when asked."""

    q: Layout
    k: Layout
    heads: int  # how many are asked for
    apart: bool  # whether a few of them can be made without the others
    of: Callable[[slice], Make]  # ... of some of the heads asked for
    hull: Callable[[slice], slice]  # the columns that some rows can see, as one slice
    parts: Callable[[slice], tuple[slice, ...]]  # ... without the gap between first tokens and a window
    own: bool = True  # whether queries and keys stand in the same text
    after: bool = True  # whether a query may see keys after it
    sees: See | None = None  # which pairs a mask lets see; without it what has weight is seen

    def blocks(self, rows: Sequence[slice] | None = None, tile: int = TILE) -> Iterator[Block]:
        """All rows, or those named, of all heads."""
        size = max(self.q.batch * self.k.tokens, 1)  # weights of a head and row
        asked = [slice(0, self.q.tokens)] if rows is None else rows
        several = max(1, tile // (size * min(WISHED, self.q.tokens or 1))) if self.apart else self.heads
        for lead in range(0, self.heads if self.k.tokens else 0, several):
            heads = slice(lead, min(lead + several, self.heads))
            make = self.of(heads)
            most = max(LEAST, min(MOST, tile // (size * (heads.stop - lead))))
            for part in asked:
                for first in range(part.start, part.stop, most):
                    block = slice(first, min(first + most, part.stop))
                    hull = self.hull(block)
                    if hull.stop > hull.start:
                        yield Block(heads, block, hull, make(block, hull))


@torch.no_grad()
def at_the_door(
    q: Tensor, k: Tensor, call: AttentionCall, heads: Heads = None, *, own: bool = True, made: Tensor | None = None
) -> Application:
    """The application that stands at the door, of some heads. q [B, H, Q, D], k [B, G, K, D].

    made: the weights of all heads [B, H, Q, K], where a backend made them; else they are computed when asked for.
    """
    q, k, sight = q.detach(), k.detach(), call.visibility
    numbers = tuple(range(q.shape[1])) if heads is None else heads
    share, apart = q.shape[1] // k.shape[1], not call.rule.normaliser.by_head
    bound: Bound = []
    if made is None:
        with exact(q.device):
            bound = call.bind(q, k)

    def of(some: slice) -> Make:
        picked = numbers[some]
        if made is not None:
            few = made if picked == tuple(range(q.shape[1])) else made[:, list(picked)]
            return lambda rows, keys: few[:, :, rows, keys]
        if picked == tuple(range(q.shape[1])):
            return lambda rows, keys: weights(q, k, call, bound, rows, keys)
        if not apart:
            return lambda rows, keys: weights(q, k, call, bound, rows, keys)[:, list(picked)]
        queries, theirs, only = q[:, list(picked)], k[:, [head // share for head in picked]], call.again(picked)
        return lambda rows, keys: weights(queries, theirs, only, bound, rows, keys)

    def sees(some: slice, rows: slice, keys: slice) -> Tensor | None:
        found = sight.dense(rows, keys)
        return found if found is None or found.shape[1] == 1 else found[:, list(numbers[some])]

    after = sight.terms.after != 0
    return Application(sight.q, sight.k, len(numbers), apart, of, sight.keys_of, sight.columns_of, own, after, sees)


def runs_of(columns: Tensor) -> list[slice]:
    """The columns where a bool [T] is true, as slices."""
    edges = torch.nn.functional.pad(columns.int(), (1, 1)).diff()
    return [slice(a, b) for a, b in zip((edges == 1).nonzero()[:, 0].tolist(), (edges == -1).nonzero()[:, 0].tolist())]


def ranks(layout: Layout) -> Tensor:
    """[B, T] on the CPU: the number of each token among those of its row, -1 where there is none.

    What a cache holds is one text, numbered by its positions; texts packed into a row are numbered through.
    """
    return layout.once("ranks", lambda: _ranks(layout))  # type: ignore[no-any-return]


def _ranks(layout: Layout) -> Tensor:
    positions, real = layout.positions.cpu(), layout.real
    if real is None:
        return positions
    assert layout.segments is not None
    real = real.cpu()
    packed = bool((layout.segments > 0).any())
    return torch.where(real, real.cumsum(1) - 1 if packed else positions, -1)


@dataclass(eq=False)
class Call:
    """Where one call stands: the ranks of its queries and keys, [B, Q] and [B, K] on the CPU, and their segments.

    where: the row of this call that each row of today comes from; None = the same.
    """

    q: Tensor
    k: Tensor
    segments: tuple[Tensor, Tensor] | None = None
    where: Tensor | None = None

    @staticmethod
    def of(seen: Application) -> Call:
        if seen.q.segments is None or seen.k.segments is None:
            return Call(ranks(seen.q), ranks(seen.k))
        return Call(ranks(seen.q), ranks(seen.k), (seen.q.segments.cpu(), seen.k.segments.cpu()))

    def row(self, row: int) -> int:
        return row if self.where is None else int(self.where[row])

    def select(self, rows: Tensor) -> None:
        self.where = rows if self.where is None else self.where[rows]


def held(calls: Sequence[Call], path: str, side: str, row: int, segment: int | None) -> Tensor:
    """The numbers of the tokens of a row on a side, "q" or "k", in order: all, or those of one text packed into it."""
    batch = 0 if not calls else len(calls[-1].q if calls[-1].where is None else calls[-1].where)
    if isinstance(row, bool) or not 0 <= row < batch:
        raise UsageError("row", f"is {row}", f"{path} saw {batch} rows, numbered from 0")
    found = []
    for call in calls:
        at = call.row(row)
        numbers = (call.q if side == "q" else call.k)[at]
        if segment is not None:
            segments = torch.zeros_like(numbers) if call.segments is None else call.segments[side == "k"][at]
            numbers = numbers[segments == segment]
        found.append(numbers[numbers >= 0])
    known: Tensor = torch.cat(found).unique()
    if segment is not None and not len(known):
        raise UsageError("segment", f"is {segment}", f"row {row} of {path} holds no such text")
    return known
