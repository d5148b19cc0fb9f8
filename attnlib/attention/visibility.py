"""Visibility: a mask applied to two layouts. It lowers to what a kernel reads; it never chooses the kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from attnlib.attention.masks import Mask, Terms, terms
from attnlib.layout import Coordinates, Layout

Columns = slice | Tensor  # some columns of a batch: a run of them, or their numbers
SHORT = 256  # tokens up to which parts of a lowered mask are kept


class Visibility:
    """Which key every query sees. Lowered forms of interned layouts live as long as the layout, others one forward.

    heads: how many there are; only: which of them are looked at, None = all.
    """

    __slots__ = ("_causal", "_terms", "_unmasked", "heads", "k", "mask", "memo", "only", "q")

    def __init__(self, mask: Mask, q: Layout, k: Layout, heads: int = 1, only: tuple[int, ...] | None = None) -> None:
        self.mask, self.q, self.k, self.heads, self.only = mask, q, k, heads, only
        self.memo: dict[Any, Any] = {}  # what is made once this forward, learned biases among it
        self._terms: Terms | None = None
        self._unmasked: bool | None = None
        self._causal: bool | None = None

    @property
    def terms(self) -> Terms:
        if self._terms is None:
            self._terms = terms(self.mask)
        return self._terms

    @property
    def _span(self) -> tuple[int, int, int, int] | None:
        """Static: first and last position of queries and of keys, where both layouts are dense."""
        q, k = self.q, self.k
        if not (q.is_dense and k.is_dense) or q.start is None or k.start is None:
            return None
        return q.start, q.start + q.tokens - 1, k.start, k.start + k.tokens - 1

    @property
    def unmasked(self) -> bool:
        """Static: every query certainly sees every key."""
        if self._unmasked is None:
            span = self._span
            if span is None or not self.q.tokens or not self.k.tokens:
                self._unmasked = False
            else:
                q, k = range(span[0], span[1] + 1), range(span[2], span[3] + 1)
                self._unmasked = self.mask.blocks(q, k) == "all"
        return self._unmasked

    @property
    def is_causal(self) -> bool:
        """Static: exactly the lower triangle of a square, which kernels know by a flag."""
        if self._causal is None:
            span, bounds = self._span, self.terms
            square = span is not None and span[:2] == span[2:]
            whole = bounds.before is None or bounds.before >= self.q.tokens - 1
            self._causal = square and whole and bounds.causal and bounds.rest is None
        return self._causal

    def dense(self, rows: slice = slice(None), keys: Columns = slice(None)) -> Tensor | None:
        """[B|1, H|1, Q, K] bool of the queries in `rows` and the keys in `keys`; None = all seen."""
        if self.unmasked:
            return None
        form = self._kept(rows, keys) if isinstance(keys, slice) else None
        if form is None:
            return self._lower(rows, keys)
        return self.once(form, lambda: self._lower(rows, keys))  # type: ignore[no-any-return]

    def addend(self, rows: slice, keys: slice, dtype: torch.dtype) -> Tensor | None:
        """What `dense` says as what is added to scores: 0 where seen, else the lowest number there is; None = all seen."""

        def make() -> Tensor | None:
            seen = self.dense(rows, keys)
            if seen is None:
                return None
            return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min)

        form = self._kept(rows, keys)
        return make() if self.unmasked or form is None else self.once(f"{form} {dtype}", make)

    def _kept(self, rows: slice, keys: slice) -> str | None:
        """The name that a part is kept by: the whole, and of a short text all rows over some keys; None = not at all."""
        if rows == slice(None) and keys == slice(None):
            return "dense"
        if torch.compiler.is_compiling() or self.q.tokens > SHORT or rows.indices(self.q.tokens) != (0, self.q.tokens, 1):
            return None
        return f"dense {keys.indices(self.k.tokens)}" if self.k.tokens <= SHORT else None

    def once(self, form: str, make: Callable[[], Any]) -> Any:
        """`make()`, kept beside a layout that lives as long as what it was made of, else here.

        A dense layout outlives its batch, so it keeps nothing of a padded one; and a mask that reads more than positions
        may hold a tensor of the batch.
        """
        if torch.compiler.is_compiling():  # which must not learn the ids of layouts
            return make()
        owner = self.k if self.q.is_dense and not self.k.is_dense else self.q
        key = (form, self.mask, id(self.q), id(self.k), self.heads, self.only)
        if self.mask.positional():
            # both layouts stand beside what was made of them, so that their ids are not given to others
            return owner.once(key, lambda: (make(), self.q, self.k))[0]
        if key not in self.memo:
            with torch.inference_mode(False):
                self.memo[key] = make()
        return self.memo[key]

    def coordinates(self, rows: slice, keys: Columns) -> tuple[Coordinates, Coordinates]:
        """Of the queries `rows` and the keys `keys`, and of all heads or those that alone are looked at."""
        heads = self.heads if self.only is None else self.only
        return self.q.coordinates("q", rows, heads), self.k.coordinates("k", keys, heads)

    def _lower(self, rows: slice, keys: Columns) -> Tensor:
        q, k = self.coordinates(rows, keys)
        seen = self.mask.visible(q, k)
        if self.q.segments is not None or self.k.segments is not None:
            seen = seen & (q.segment == k.segment) & (k.segment >= 0)
        shape = torch.broadcast_shapes(seen.shape, (1, 1, q.column.shape[2], k.column.shape[3]))
        return seen.expand(shape)

    def keys_of(self, rows: slice) -> slice:
        """Static: the columns that the queries of `rows` can see at all, as one slice."""
        span = self._span
        if span is None and self.q is self.k and self.q.runs is not None:
            span = (0, self.q.tokens - 1, 0, self.q.tokens - 1)  # inside a run columns are as far apart as positions
        if span is None:
            return slice(0, self.k.tokens)
        first, stop, _ = rows.indices(self.q.tokens)
        low, high = 0, self.k.tokens
        if self.terms.after is not None:
            high = min(high, span[0] + stop - 1 + self.terms.after - span[2] + 1)
        if self.terms.before is not None:
            low = max(low, span[0] + first - self.terms.before - span[2])
        return slice(min(low, max(high, 0)), max(high, 0))

    def edges_of(self, rows: slice, keys: slice) -> tuple[slice, ...] | None:
        """Static: the columns among `keys` that not all of `rows` see, where the others are seen by all and no row by none.

        None = not known without looking.
        """
        span, bounds = self._span, self.terms
        if span is None or bounds.rest is not None or span[0] < span[2]:
            return None
        first, stop, _ = rows.indices(self.q.tokens)
        low, high = span[0] + first - span[2], span[0] + stop - 1 - span[2]  # the rows' own columns
        begin, end = keys.indices(self.k.tokens)[:2]
        if not begin <= low <= high < end:
            return None
        left = begin if bounds.before is None else min(max(high - bounds.before, begin), end)
        right = end if bounds.after is None else min(low + bounds.after + 1, end)
        if left >= right:
            return (slice(begin, end),)
        return tuple(part for part in (slice(begin, left), slice(right, end)) if part.start < part.stop)

    def columns_of(self, rows: slice) -> tuple[slice, ...]:
        """Static: the same columns in as few slices as tell them apart: what a window sees, and first tokens kept by all."""
        hull, kept, span = self.keys_of(rows), self.mask.keeps(), self._span
        if span is None or span[2] or kept.last is None or not kept.first or self.terms.after is None:
            return (hull,)
        low = max(kept.first, span[0] + rows.indices(self.q.tokens)[0] - kept.last)
        if low <= kept.first or low >= hull.stop:
            return (hull,)
        return slice(0, kept.first), slice(low, hull.stop)

    def sees_nothing(self) -> Tensor | None:
        """[B|1, H|1, Q, 1] bool: queries that see no key; None = there is none."""
        if "blind" not in self.memo:
            seen = self.dense()
            self.memo["blind"] = None if seen is None else ~seen.any(-1, keepdim=True)
        return self.memo["blind"]  # type: ignore[no-any-return]

    def runs(self) -> list[tuple[tuple[int, int, int], tuple[int, int, int]]] | None:
        """Pairs of query run and key run of the same segment, where the host knows both; None = not known."""
        if self.q.runs is None or self.k.runs is None or self.q.tags is not None or self.k.tags is not None:
            return None
        if self.q is self.k:
            return [(run, run) for run in self.q.runs]
        one_each = len({run[0] for run in self.q.runs}) == len(self.q.runs)
        if not one_each or len({run[0] for run in self.k.runs}) != len(self.k.runs):
            return None
        keys = {run[0]: run for run in self.k.runs}
        return [(run, keys[run[0]]) for run in self.q.runs if run[0] in keys]
