"""SeenWeights: what recording kept of one attention over one text, its calls joined."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from attnlib.errors import UsageError
from attnlib.inspect.rows import Application, ranks


class Piece(NamedTuple):
    """Weights [B, h, R, N] of the query columns `rows` over the key columns `keys`."""

    rows: slice
    keys: slice
    weights: Tensor


@dataclass(eq=False)
class Call:
    """One call: the ranks of its queries and keys, [B, Q] and [B, K], their segments, and its weights in pieces.

    where: the row of this call that each row of today comes from; None = the same.
    """

    q: Tensor
    k: Tensor
    segments: tuple[Tensor, Tensor] | None
    pieces: list[Piece]
    where: Tensor | None = None

    @staticmethod
    def of(seen: Application) -> Call:
        segments = None
        if seen.q.segments is not None and seen.k.segments is not None:
            segments = seen.q.segments.cpu(), seen.k.segments.cpu()
        return Call(ranks(seen.q), ranks(seen.k), segments, [])

    def row(self, row: int) -> int:
        return row if self.where is None else int(self.where[row])


@dataclass(eq=False)
class SeenWeights:
    """The weights of one attention over one text: only what its mask can see, a block of rows after another.

    heads: their numbers. rows: which queries were kept, None = all. A text that was decoded step by step is one.
    """

    path: str
    heads: tuple[int, ...]
    rows: tuple[int, ...] | None = None
    batch: int = 0
    calls: list[Call] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        """Bytes of the weights kept."""
        return sum(p.weights.numel() * p.weights.element_size() for call in self.calls for p in call.pieces)

    def select(self, rows: Tensor) -> None:
        """Other rows stand for the text from here on, as beams do."""
        rows = rows.cpu()
        for call in self.calls:
            call.where = rows if call.where is None else call.where[rows]
        self.batch = len(rows)

    def queries(self, row: int = 0, segment: int | None = None) -> list[int]:
        """The numbers of the queries kept, within the row, or within one of the texts that are packed into it."""
        held = self._ranks("q", row, segment)
        if self.rows is not None:
            held = held[torch.isin(held, torch.tensor(self.rows, dtype=torch.long))]
        return (held - self._first("q", row, segment)).tolist()

    def keys(self, row: int = 0, segment: int | None = None) -> int:
        """How many keys there are."""
        held = self._ranks("k", row, segment)
        return int(held[-1]) - self._first("k", row, segment) + 1 if len(held) else 0

    def dense(self, row: int = 0, segment: int | None = None) -> Tensor:
        """[h, Q, K] in float32 or more: the queries kept over all keys, of a row or of one text packed into it."""
        first = self._first("q", row, segment), self._first("k", row, segment)
        held = torch.tensor(self.queries(row, segment), dtype=torch.long)
        keys = self.keys(row, segment)
        kept = next((piece.weights.dtype for call in self.calls for piece in call.pieces), torch.float32)
        out = torch.zeros(len(self.heads), len(held), keys, dtype=torch.promote_types(kept, torch.float32))
        place = torch.full((int(held[-1]) + 1 if len(held) else 0,), -1)
        place[held] = torch.arange(len(held))
        for call in self.calls:
            at = call.row(row)
            for piece in call.pieces:
                queries = call.q[at, piece.rows] - first[0]
                known = (queries >= 0) & (queries < len(place))
                queries = torch.where(known, place[queries.clamp(0, len(place) - 1)], -1) if len(place) else queries
                columns = call.k[at, piece.keys] - first[1]
                _put(out, queries, torch.where(columns < keys, columns, -1), piece.weights[at])
        return out

    def _ranks(self, side: str, row: int, segment: int | None) -> Tensor:
        """The numbers of the tokens of a side, in order."""
        if not 0 <= row < self.batch:
            raise UsageError("row", f"is {row}", f"{self.path} saw {self.batch} rows, numbered from 0")
        found = []
        for call in self.calls:
            at = call.row(row)
            held = (call.q if side == "q" else call.k)[at]
            if segment is not None:
                segments = torch.zeros_like(held) if call.segments is None else call.segments[side == "k"][at]
                held = held[segments == segment]
            found.append(held[held >= 0])
        known = torch.cat(found).unique() if found else torch.zeros(0, dtype=torch.long)
        if segment is not None and not len(known):
            raise UsageError("segment", f"is {segment}", f"row {row} of {self.path} holds no such text")
        return known

    def _first(self, side: str, row: int, segment: int | None) -> int:
        return 0 if segment is None else int(self._ranks(side, row, segment)[0])


def _put(out: Tensor, queries: Tensor, keys: Tensor, weights: Tensor) -> None:
    """out[:, queries, keys] = weights, but for places below zero."""
    if bool((queries < 0).any()):
        weights, queries = weights[:, queries >= 0], queries[queries >= 0]
    if bool((keys < 0).any()):
        weights, keys = weights[:, :, keys >= 0], keys[keys >= 0]
    if not len(queries) or not len(keys):
        return
    if _follow(queries) and _follow(keys):
        q, k = int(queries[0]), int(keys[0])
        out[:, q : q + len(queries), k : k + len(keys)] = weights
    else:
        out[:, queries[:, None], keys[None]] = weights.to(out.dtype)


def _follow(places: Tensor) -> bool:
    return bool((places.diff() == 1).all())
