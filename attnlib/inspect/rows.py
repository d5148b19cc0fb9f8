"""The weights of one attention call, a block of query rows at a time: what recording and its summaries are made from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from attnlib.attention.backends.protocol import AttentionCall
from attnlib.attention.backends.reference import exact, weights
from attnlib.layout import Layout

TILE = 1 << 20  # weights of a block, of all heads and rows of the batch: a few MiB, which caches hold
LEAST, MOST = 16, 256  # query rows of a block

Heads = tuple[int, ...] | None
Make = Callable[[slice, slice], Tensor]  # (query columns, key columns) -> [B, h, R, N] weights


class Application(NamedTuple):
    """One application of attention: where its tokens stand, and its weights made for a block of rows when asked."""

    q: Layout
    k: Layout
    make: Make
    hull: Callable[[slice], slice]  # the columns that some rows can see, as one slice
    parts: Callable[[slice], tuple[slice, ...]]  # ... without the gap between first tokens and a window
    heads: int  # how many are made

    def blocks(self, rows: Sequence[slice] | None = None, tile: int = TILE) -> Iterator[tuple[slice, slice, Tensor]]:
        """(query columns, key columns, weights [B, h, R, N]): all rows, or those named."""
        if not self.k.tokens:
            return
        most = max(LEAST, min(MOST, tile // max(self.q.batch * self.heads * self.k.tokens, 1)))
        for part in [slice(0, self.q.tokens)] if rows is None else rows:
            for first in range(part.start, part.stop, most):
                block = slice(first, min(first + most, part.stop))
                hull = self.hull(block)
                if hull.stop > hull.start:
                    yield block, hull, self.make(block, hull)


@torch.no_grad()
def at_the_door(q: Tensor, k: Tensor, call: AttentionCall, heads: Heads = None) -> Application:
    """The application that stands at the door, of some heads. q [B, H, Q, D], k [B, G, K, D]."""
    q, k, sight = q.detach(), k.detach(), call.visibility
    with exact(q.device):
        bound = call.bind(q, k)
    alone = heads is not None and not call.rule.normaliser.by_head
    if alone:
        assert heads is not None
        share = q.shape[1] // k.shape[1]
        q, k, call = q[:, list(heads)], k[:, [head // share for head in heads]], call.again(heads)

    def make(rows: slice, keys: slice) -> Tensor:
        found = weights(q, k, call, bound, rows, keys)
        return found if alone or heads is None else found[:, list(heads)]

    made = q.shape[1] if heads is None else len(heads)
    return Application(sight.q, sight.k, make, sight.keys_of, sight.columns_of, made)


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
