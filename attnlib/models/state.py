"""DecodingState: all that earlier tokens left in a stack."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from attnlib.attention.caches import LayerCache, Memory, Slots
from attnlib.attention.rotary import Lengths
from attnlib.attention.scope import Scope
from attnlib.errors import LayoutError
from attnlib.layout import Layout

_Saved = tuple[list[object], tuple[int, ...], int, list[Memory] | None, Lengths | None]


class DecodingState:
    """One cache a layer, slots once for all that keep alike, and the encoder's memory; rows move together."""

    def __init__(
        self,
        caches: list[LayerCache],
        slots: list[Slots],
        *,
        batch: int,
        device: torch.device,
        memory: list[Memory] | None = None,
        capacity: int | None = None,
        fixed_shapes: bool = False,
    ) -> None:
        self.caches, self.slots, self.memory = caches, slots, memory
        self.capacity, self.fixed_shapes, self.device = capacity, fixed_shapes, device
        self.lengths: tuple[int, ...] = (0,) * batch  # real tokens so far, a row
        self._counted = 0  # columns taken, pads included
        self.horizon: Lengths | None = capacity  # final lengths, which some rotary scalings are fixed for at once

    @property
    def batch(self) -> int:
        return len(self.lengths)

    def following(self, tokens: int = 1) -> Layout:
        """Where the next `tokens` tokens of every row stand."""
        if not self.fixed_shapes and len(set(self.lengths)) == 1:
            return Layout.dense(self.batch, tokens, start=self.lengths[0], device=self.device)
        first = torch.tensor(self.lengths, device=self.device)
        positions = first[:, None] + torch.arange(tokens, device=self.device)
        # no host fact that changes from step to step, where one graph is to serve all
        extent = None if self.fixed_shapes else max(self.lengths) + tokens
        return Layout(positions, extent=extent)

    def count(self, layout: Layout) -> None:
        """Take note, on the host, of tokens about to come; refuses more than there is room for."""
        new = layout.lengths
        if new is None:
            raise LayoutError("layout", "the tokens of its rows are not known to the host",
                              "give layouts made by Layout.dense, from_lengths or from_mask to a cache")  # fmt: skip
        if len(new) != self.batch:
            raise LayoutError("layout", f"has {len(new)} rows", f"the state has {self.batch}")
        if self.capacity is not None and self.fixed_shapes and self._columns() + layout.tokens > self.capacity:
            raise LayoutError("static cache", f"{self._columns() + layout.tokens} columns",
                              f"capacity is {self.capacity}")  # fmt: skip
        self._counted = self._columns() + layout.tokens
        self.lengths = tuple(a + b for a, b in zip(self.lengths, new))

    def _parts(self) -> list[Slots | LayerCache]:
        return [*self.slots, *self.caches]

    def _columns(self) -> int:
        return self._counted

    def extend(self, layout: Layout) -> None:
        """Called by the stack once a forward, before its first block."""
        for slots in self.slots:
            slots.extend(layout)

    def select(self, rows: Tensor) -> None:
        """Reorder, repeat or drop rows [R] int64: beams, finished texts."""
        before = self._layouts()
        for part in self._parts():
            part.select(rows)
        if self.memory is not None:
            self.memory = [kept.select(rows) for kept in self.memory]
        self.lengths = tuple(self.lengths[row] for row in rows.tolist())
        if isinstance(self.horizon, tuple):
            self.horizon = tuple(self.horizon[row] for row in rows.tolist())
        door = Scope.open_door()
        if door is not None:
            door.moved(rows, [*zip(before, self._layouts())])

    def _layouts(self) -> list[Layout]:
        """Where the columns of the caches and of the memory stand."""
        held = [slots.layout for slots in self.slots if slots.layout is not None]
        return held + [kept.layout for kept in self.memory or ()]

    def save(self) -> object:
        """A point to come back to."""
        return ([part.save() for part in self._parts()], self.lengths, self._columns(), self.memory, self.horizon)

    def restore(self, saved: object) -> None:
        """Come back to a saved point, as often as wanted."""
        parts, self.lengths, self._counted, self.memory, self.horizon = cast(_Saved, saved)
        for part, kept in zip(self._parts(), parts):
            part.restore(kept)

    def detach(self) -> None:
        """Stop gradients here: a long text is trained on segment by segment, each after what the last ones left.

        Under a causal window this is the segment recurrence of Transformer-XL (Dai et al. 2019, arXiv:1901.02860), save that
        the keys and values held give no gradient to the projections that made them; under a recurrence, truncated
        backpropagation through time. Without it gradients reach all that is held: those of the whole text.
        """
        for cache in self.caches:
            cache.detach()

    def nbytes(self) -> int:
        """Bytes the caches use now, without the encoder's memory."""
        return sum(cache.nbytes() for cache in self.caches)
