"""Caches: what earlier tokens left, and where it stands. `extend` returns everything to attend to.

A KeyValueCache holds the named tensors [B, *, K, *] of one layer; Slots say where the columns stand, once for all layers
that keep alike. The stack moves the slots once a forward, before its first block.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from attnlib.attention.masks import Retention
from attnlib.errors import LayoutError
from attnlib.layout import Layout, join

Entry = dict[str, Tensor]


class Slots(Protocol):
    """Where the columns of a cache stand, and how new columns come in."""

    layout: Layout | None  # of all columns, after `extend`

    def extend(self, layout: Layout) -> None:
        """Take in the layout of new tokens, once a forward."""

    def store(self, held: Tensor | None, new: Tensor) -> tuple[Tensor, Tensor]:
        """The tensor to hold on to, and everything to attend to, [B, *, K, *]."""

    def select(self, rows: Tensor) -> None:
        """Reorder, repeat or drop rows."""

    def save(self) -> object:
        """All that is needed to come back to this state; cheap, nothing is copied that cannot change."""

    def restore(self, saved: object) -> None:
        """Come back to a saved state."""


def _writable(held: Tensor) -> Tensor:
    """A buffer made in inference mode cannot be written outside it."""
    if torch.compiler.is_compiling() or torch.is_inference_mode_enabled() or not held.is_inference():
        return held
    return held.clone()


class Growing:
    """Keeps all. Buffers double, so that a token costs O(1) copies; with gradients it concatenates instead."""

    def __init__(self) -> None:
        self.layout: Layout | None = None
        self.used = 0

    def extend(self, layout: Layout) -> None:
        self.used = 0 if self.layout is None else self.layout.tokens
        self.layout = join(self.layout, layout)

    def store(self, held: Tensor | None, new: Tensor) -> tuple[Tensor, Tensor]:
        used, total = self.used, self.used + new.shape[2]
        if held is None and used == 0:
            return new, new
        assert held is not None
        if torch.is_grad_enabled() and (held.requires_grad or new.requires_grad):
            joined = torch.cat([held[:, :, :used], new], 2)
            return joined, joined
        if held.shape[2] < total:
            room = held.new_empty(*held.shape[:2], max(total, 2 * used, 64), *held.shape[3:])
            room[:, :, :used] = held[:, :, :used]
            held = room
        held = _writable(held)
        held[:, :, used:total] = new
        return held, held[:, :, :total]

    def select(self, rows: Tensor) -> None:
        self.layout = None if self.layout is None else self.layout.select(rows)

    def save(self) -> object:
        return self.layout

    def restore(self, saved: object) -> None:
        self.layout = saved if isinstance(saved, Layout) else None


class Static:
    """A fixed number of columns, unwritten ones being no token; nothing about it changes shape, so one graph serves all."""

    def __init__(self, *, batch: int, capacity: int, device: torch.device | str = "cpu") -> None:
        self.capacity = capacity
        self.cursor = torch.zeros((), dtype=torch.long, device=device)
        self.columns = torch.zeros(0, dtype=torch.long, device=device)
        self.layout: Layout | None = Layout(
            torch.zeros(batch, capacity, dtype=torch.long, device=device),
            torch.full((batch, capacity), -1, dtype=torch.long, device=device),
            tags=torch.zeros(batch, capacity, dtype=torch.long, device=device),
        )

    def extend(self, layout: Layout) -> None:
        assert self.layout is not None and self.layout.segments is not None and self.layout.tags is not None
        if layout.tokens > self.capacity:
            raise LayoutError("static cache", f"{layout.tokens} new tokens", f"capacity is {self.capacity}")
        self.columns = self.cursor + torch.arange(layout.tokens, device=layout.device)
        self.cursor = self.cursor + layout.tokens
        zeros = torch.zeros_like(layout.positions)
        segments = zeros if layout.segments is None else layout.segments
        self.layout = Layout(
            self.layout.positions.index_copy(1, self.columns, layout.positions),
            self.layout.segments.index_copy(1, self.columns, segments),
            tags=self.layout.tags.index_copy(1, self.columns, zeros if layout.tags is None else layout.tags),
        )

    def store(self, held: Tensor | None, new: Tensor) -> tuple[Tensor, Tensor]:
        if held is None:
            held = new.new_zeros(*new.shape[:2], self.capacity, *new.shape[3:])
        if torch.is_grad_enabled() and (held.requires_grad or new.requires_grad):
            held = held.index_copy(2, self.columns, new)
        else:
            held = _writable(held)
            held.index_copy_(2, self.columns, new)
        return held, held

    def select(self, rows: Tensor) -> None:
        assert self.layout is not None
        self.layout = self.layout.select(rows)

    def save(self) -> object:
        return self.layout, self.cursor

    def restore(self, saved: object) -> None:
        self.layout, self.cursor = saved  # type: ignore[misc]


class Rolling:
    """Keeps what a bounded mask can still see: of every row the `first` tokens and the newest `last`."""

    def __init__(self, keeps: Retention) -> None:
        assert keeps.last is not None
        self.first, self.last = keeps.first, keeps.last
        self.layout: Layout | None = None
        self.kept: Tensor | None = None  # [n] or [B, n] columns of the last layout that are still needed; None = all

    def extend(self, layout: Layout) -> None:
        held, self.kept = self.layout, None
        if held is not None and held.tokens > self.first + self.last:
            if held.is_dense:
                columns = torch.arange(held.tokens, device=held.device)
                self.kept = torch.cat([columns[: self.first], columns[held.tokens - self.last :]])
                held = _cut(held, self.kept, self.first)
            else:
                self.kept, held = _newest(held, self.first, self.last)
        self.layout = join(held, layout)

    def store(self, held: Tensor | None, new: Tensor) -> tuple[Tensor, Tensor]:
        if held is None:
            return new, new
        if self.kept is not None:
            if self.kept.dim() == 1:
                held = held.index_select(2, self.kept)
            else:
                index = self.kept.view(self.kept.shape[0], 1, -1, *(1,) * (held.dim() - 3))
                held = held.gather(2, index.expand(-1, held.shape[1], -1, *held.shape[3:]))
        joined = torch.cat([held, new], 2)
        return joined, joined

    def select(self, rows: Tensor) -> None:
        self.layout = None if self.layout is None else self.layout.select(rows)

    def save(self) -> object:
        return self.layout

    def restore(self, saved: object) -> None:
        self.layout = saved if isinstance(saved, Layout) else None


def _cut(layout: Layout, columns: Tensor, first: int) -> Layout:
    """The same columns of every row of a dense layout; still dense when they are its end."""
    assert layout.start is not None
    if not first:
        return Layout.dense(layout.batch, len(columns), start=layout.start + layout.tokens - len(columns),
                            device=layout.device)  # fmt: skip
    at = None if layout.encoded_at is None else layout.encoded_at[:, columns]
    return Layout(layout.positions[:, columns], extent=layout.extent, encoded_at=at)


def _newest(layout: Layout, first: int, last: int) -> tuple[Tensor, Layout]:
    """[B, first + last] columns of each row's first and newest real tokens, and the layout of those columns."""
    real = torch.ones_like(layout.positions, dtype=torch.bool) if layout.real is None else layout.real
    column = torch.arange(layout.tokens, device=layout.device).expand_as(real)
    far = layout.tokens
    newest = torch.where(real, column, column - far).argsort(1)[:, far - last :]
    oldest = torch.where(real, column, column + far).argsort(1)[:, :first]
    columns = torch.cat([oldest, newest], 1)
    # a token among the newest must not be held twice
    twice = torch.arange(first, device=layout.device) >= real.sum(1, keepdim=True) - last
    segments = torch.zeros_like(layout.positions) if layout.segments is None else layout.segments
    segments = segments.gather(1, columns)
    segments[:, :first] = segments[:, :first].masked_fill(twice, -1)
    tags, at = (None if t is None else t.gather(1, columns) for t in (layout.tags, layout.encoded_at))
    positions = layout.positions.gather(1, columns)
    return columns, Layout(positions, segments, None, None, layout.extent, tags=tags, encoded_at=at)


class LayerCache(Protocol):
    """What every cache of a layer can do, whatever it keeps."""

    def select(self, rows: Tensor) -> None: ...
    def save(self) -> object: ...
    def restore(self, saved: object) -> None: ...
    def detach(self) -> None: ...
    def nbytes(self) -> int: ...


class KeyValueCache:
    """The named columns of one attention layer."""

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self.held: Entry = {}

    @property
    def layout(self) -> Layout:
        """Where all columns stand, those of this forward included."""
        assert self.slots.layout is not None
        return self.slots.layout

    def extend(self, new: Entry) -> Entry:
        """Take in the columns of new tokens; everything to attend to comes back under the same names."""
        seen: Entry = {}
        for name, tensor in new.items():
            self.held[name], seen[name] = self.slots.store(self.held.get(name), tensor)
        return seen

    def select(self, rows: Tensor) -> None:
        self.held = {name: tensor.index_select(0, rows) for name, tensor in self.held.items()}

    def save(self) -> object:
        return {name: tensor.clone() for name, tensor in self.held.items()}

    def restore(self, saved: object) -> None:
        assert isinstance(saved, dict)
        self.held = {name: tensor.clone() for name, tensor in saved.items()}

    def detach(self) -> None:
        """Gradients of what comes later stop at what is held."""
        self.held = {name: tensor.detach() for name, tensor in self.held.items()}

    def nbytes(self) -> int:
        """Bytes of the columns in use (for a static cache: of all)."""
        columns = self.layout.tokens
        return sum(t[:, :, :columns].numel() * t.element_size() for t in self.held.values())


class Memory:
    """What a layer keeps of the encoder's output: its keys and values, made once."""

    __slots__ = ("entry", "layout")

    def __init__(self, entry: Entry, layout: Layout) -> None:
        self.entry, self.layout = entry, layout

    def select(self, rows: Tensor) -> Memory:
        return Memory({n: t.index_select(0, rows) for n, t in self.entry.items()}, self.layout.select(rows))
