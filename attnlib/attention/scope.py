"""Scope: what lives for one forward of one stack, shared by its layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from attnlib.attention.backends.protocol import AttentionCall
from attnlib.attention.biases import ScoreTerm
from attnlib.attention.masks import Mask
from attnlib.attention.rotary import Lengths
from attnlib.attention.visibility import Visibility
from attnlib.layout import Layout
from attnlib.nn.mixture import Routed, balance


class Door:
    """Stands where every application of attention passes: may look at it, or replace its output."""

    def __call__(self, path: str, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall, run: Callable[[], Tensor]) -> Tensor:
        return run()

    def moved(self, rows: Tensor, layouts: Sequence[tuple[Layout, Layout]]) -> None:
        """Caches took other rows (beams, texts that ended): where their columns stood before, and where now."""


_door: ContextVar[Door | None] = ContextVar("attnlib_attention_door", default=None)


@contextmanager
def standing_at_the_door(door: Door) -> Iterator[None]:
    """While open, every attention of this thread passes through `door`."""
    token = _door.set(door)
    try:
        yield
    finally:
        _door.reset(token)


class Scope:
    """One forward: visibilities made once a pattern, the terms a stack shares, the lengths rotary is scaled for, and
    what its routers note."""

    __slots__ = ("backend", "door", "lengths", "routed", "sights", "terms")

    def __init__(self, *, terms: tuple[ScoreTerm, ...] = (), lengths: Lengths | None = None, backend: str = "auto") -> None:
        self.terms, self.lengths, self.backend = terms, lengths, backend
        self.sights: list[Visibility] = []
        self.routed: list[Routed] = []
        self.door = self.open_door()

    def fresh(self) -> Scope:
        """The same forward with nothing made yet: what is recomputed must find what it found the first time."""
        new = Scope(terms=self.terms, lengths=self.lengths, backend=self.backend)
        new.door, new.routed = self.door, self.routed
        return new

    def losses(self) -> dict[str, Tensor]:
        """Further losses of this forward, by name."""
        return {"balance": balance(self.routed)} if self.routed else {}

    @staticmethod
    def open_door() -> Door | None:
        """Who stands at the door of this thread; nobody looks into a traced graph."""
        return None if torch.compiler.is_compiling() else _door.get()

    def sight(self, mask: Mask, q: Layout, k: Layout, heads: int) -> Visibility:
        """The visibility of `mask` between two layouts, made once a forward."""
        for made in self.sights:  # a handful at most; by identity, which a tracer follows too
            if made.mask is mask and made.q is q and made.k is k and made.heads == heads:
                return made
        made = Visibility(mask, q, k, heads)
        self.sights.append(made)
        return made
