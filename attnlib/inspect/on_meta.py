"""Attention of a model on the meta device: the backend that a real device would choose, run without values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from attnlib.attention.backends.choose import choose
from attnlib.attention.backends.chunked import Chunked, RowBlocks
from attnlib.attention.backends.protocol import AttentionCall
from attnlib.attention.scope import Door
from attnlib.attention.tiling import columns_by_rows
from attnlib.attention.visibility import Columns, Visibility
from attnlib.errors import UsageError
from attnlib.inspect.tally import Tally
from attnlib.layout import Layout


class OnMeta(Door):
    """Runs, on the meta device, the backend that a call would get on a real one."""

    def __init__(self, live: Tally, device: torch.device, backend: str, chosen: dict[str, str]) -> None:
        self.live, self.device, self.backend, self.chosen = live, device, backend, chosen
        self._layouts: dict[tuple[int, int, int], Layout] = {}

    def __call__(self, path: str, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall, run: Callable[[], Tensor]) -> Tensor:
        with self.live.aside():
            real = self._there(call)
            like = [torch.zeros((), dtype=t.dtype, device=self.device).expand(t.shape) for t in (q, k, v)]
            backend = choose(like[0], like[1], like[2], real, self.backend)
        self.chosen.setdefault(path, backend.name)  # what its few global tokens get apart comes after
        if backend.name == "flex":
            raise UsageError(path, "flex is compiled, and its work has no count before", "wish another backend, or auto")
        if backend.name == "chunked":
            return self._by_rows(q, k, v, call, cast(Chunked, backend).blocks(q, k, call))
        if backend.name != "tiles":
            return backend(q, k, v, call)
        with torch.device(self.device):  # which columns are seen is read from values, which only a real layout has
            if not call.parts and not call.dropout:
                return backend(q, k, v, real)
            blocks = columns_by_rows(real.visibility, 128)
        return self._by_rows(q, k, v, call, [(r, c if isinstance(c, slice) else c.to("meta")) for r, c in blocks])

    def _by_rows(
        self, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall, blocks: Sequence[tuple[slice, Columns]]
    ) -> Tensor:
        """The two widest blocks, which take the most memory, stand for all: work grows as the pairs in a block."""
        pairs = [_length(rows, q.shape[2]) * _length(columns, k.shape[2]) for rows, columns in blocks]
        widest = sorted(range(len(blocks)), key=lambda i: -pairs[i])[:2]
        made = RowBlocks(call, q, k, [blocks[i] for i in widest])
        before = self.live.flops["Global"]
        out = made.run(q, k, v)
        done, some = self.live.flops["Global"] - before, sum(pairs[i] for i in widest)
        if some:
            self.live.add(done * (sum(pairs) - some) // some)
        return out

    def _there(self, call: AttentionCall) -> AttentionCall:
        """The same call on the device, between layouts made once a forward, so that layers share what they share."""
        sight = call.visibility
        q, k = (t.readable(self._dense) for t in (sight.q, sight.k))
        return call.over(Visibility(sight.mask, q, k, sight.heads))

    def _dense(self, layout: Layout) -> Layout:
        key = (layout.batch, layout.tokens, layout.start or 0)
        return self._layouts.setdefault(key, fresh(*key, self.device))


def _length(part: Columns, tokens: int) -> int:
    return len(range(*part.indices(tokens))) if isinstance(part, slice) else len(part)


class Skipped(Door):
    """Attention that computes nothing, where only what is kept of it counts."""

    def __call__(self, path: str, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall, run: Callable[[], Tensor]) -> Tensor:
        return q.new_empty(*q.shape[:3], v.shape[3])


def fresh(batch: int, tokens: int, start: int = 0, device: torch.device | str | None = None) -> Layout:
    """A dense layout beside which nothing is kept yet, so that masks made for it count."""
    return replace(Layout.dense(batch, tokens, start=start, device=device), memo={})
