"""SeenWeights: what recording kept of one attention over one text, its calls joined."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from attnlib.inspect.rows import Block, Call, held


@dataclass(eq=False)
class SeenWeights:
    """The weights of one attention over one text: only what its mask can see, a block of rows after another.

    heads: their numbers. rows: which queries were kept, None = all. A text that was decoded step by step is one.
    """

    path: str
    heads: tuple[int, ...]
    rows: tuple[int, ...] | None = None
    calls: list[tuple[Call, list[Block]]] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        """Bytes of the weights kept."""
        return sum(p.weights.numel() * p.weights.element_size() for _, pieces in self.calls for p in pieces)

    def select(self, rows: Tensor) -> None:
        """Other rows stand for the text from here on, as beams do."""
        for call, _ in self.calls:
            call.select(rows.cpu())

    def queries(self, row: int = 0, segment: int | None = None) -> list[int]:
        """The numbers of the queries kept, within the row, or within one of the texts that are packed into it."""
        numbers = self._ranks("q", row, segment)
        if self.rows is not None:
            numbers = numbers[torch.isin(numbers, torch.tensor(self.rows, dtype=torch.long))]
        return (numbers - self._first("q", row, segment)).tolist()

    def keys(self, row: int = 0, segment: int | None = None) -> int:
        """How many keys there are."""
        numbers = self._ranks("k", row, segment)
        return int(numbers[-1]) - self._first("k", row, segment) + 1 if len(numbers) else 0

    def dense(self, row: int = 0, segment: int | None = None) -> Tensor:
        """[h, Q, K] in float32 or more: the queries kept over all keys, of a row or of one text packed into it."""
        first = self._first("q", row, segment), self._first("k", row, segment)
        kept = torch.tensor(self.queries(row, segment), dtype=torch.long)
        keys = self.keys(row, segment)
        dtype = next((piece.weights.dtype for _, pieces in self.calls for piece in pieces), torch.float32)
        out = torch.zeros(len(self.heads), len(kept), keys, dtype=torch.promote_types(dtype, torch.float32))
        place = torch.full((int(kept[-1]) + 1 if len(kept) else 0,), -1)
        place[kept] = torch.arange(len(kept))
        for call, pieces in self.calls:
            at = call.row(row)
            for piece in pieces:
                queries = call.q[at, piece.rows] - first[0]
                known = (queries >= 0) & (queries < len(place))
                queries = torch.where(known, place[queries.clamp(0, len(place) - 1)], -1) if len(place) else queries
                columns = call.k[at, piece.keys] - first[1]
                _put(out[piece.heads], queries, torch.where(columns < keys, columns, -1), piece.weights[at])
        return out

    def _ranks(self, side: str, row: int, segment: int | None) -> Tensor:
        return held([call for call, _ in self.calls], self.path, side, row, segment)

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
