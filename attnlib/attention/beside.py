"""Several mixers beside each other in one block: attention with a recurrence, as in RNN-augmented transformers."""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from attnlib.attention.caches import LayerCache, Memory, Slots
from attnlib.attention.masks import AnyOf, Mask, Retention
from attnlib.attention.scope import Scope
from attnlib.attention.softmax import MixerSpec, Role
from attnlib.layout import Layout
from attnlib.spec import FieldError


class BesideCache:
    """A cache of each mixer."""

    def __init__(self, parts: list[LayerCache]) -> None:
        self.parts = parts

    def select(self, rows: Tensor) -> None:
        for part in self.parts:
            part.select(rows)

    def save(self) -> object:
        return [part.save() for part in self.parts]

    def restore(self, saved: object) -> None:
        assert isinstance(saved, list)
        for part, kept in zip(self.parts, saved):
            part.restore(kept)

    def detach(self) -> None:
        for part in self.parts:
            part.detach()

    def nbytes(self) -> int:
        return sum(part.nbytes() for part in self.parts)


class Beside(nn.Module):
    """The sum of what several mixers make of the same x: [B, T, M] -> [B, T, M]."""

    why_no_weights = "sums several mixers, each with weights of its own or none"

    def __init__(self, mixers: list[nn.Module]) -> None:
        super().__init__()
        self.mixers: Any = nn.ModuleList(mixers)
        self.path = "attention"

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "path":
            for number, mixer in enumerate(self.mixers):
                mixer.path = f"{value}:{number}"

    @property
    def mask(self) -> Mask:
        """Who is seen by at least one of them."""
        return AnyOf(masks=tuple(mixer.mask for mixer in self.mixers))

    @property
    def stateful(self) -> bool:
        """Whether none keeps columns of the past."""
        return all(getattr(mixer, "stateful", False) for mixer in self.mixers)

    def forward(
        self,
        x: Tensor,
        layout: Layout | None = None,
        scope: Scope | None = None,
        *,
        memory: Memory | None = None,
        cache: BesideCache | None = None,
    ) -> Tensor:
        layout = layout or Layout.dense(x.shape[0], x.shape[1], device=x.device)
        scope = scope or Scope()
        caches = [None] * len(self.mixers) if cache is None else cache.parts
        found = [
            mixer(x, layout, scope, memory=None if memory is None else _of(memory, number), cache=kept)
            for number, (mixer, kept) in enumerate(zip(self.mixers, caches))
        ]
        return torch.stack(found).sum(0)

    def remember(self, x: Tensor, layout: Layout) -> Memory:
        """What each keeps of an encoder's output, under its number."""
        kept = [mixer.remember(x, layout).entry for mixer in self.mixers]
        return Memory({f"{i} {name}": t for i, entry in enumerate(kept) for name, t in entry.items()}, layout)

    def keeps(self) -> Retention:
        kept: list[Retention] = [mixer.keeps() for mixer in self.mixers]
        return reduce(_both, kept)

    def new_cache(self, slots: Slots) -> LayerCache:
        return BesideCache([mixer.new_cache(slots) for mixer in self.mixers])


def _of(memory: Memory, number: int) -> Memory:
    mine = f"{number} "
    return Memory({name.removeprefix(mine): t for name, t in memory.entry.items() if name.startswith(mine)}, memory.layout)


def _both(a: Retention, b: Retention) -> Retention:
    return Retention(max(a.first, b.first), None if a.last is None or b.last is None else max(a.last, b.last))


class BesideSpec(MixerSpec, kind="beside"):
    """The sum of several mixers over the same input, as an RNN beside attention."""

    mixers: tuple[MixerSpec, ...] = Field(min_length=2)

    def check(self, *, d_model: int, role: Role) -> None:
        for number, mixer in enumerate(self.mixers):
            try:
                mixer.check(d_model=d_model, role=role)
            except FieldError as error:
                raise FieldError(f"mixers.{number}.{error.field}", error.fact, error.wish, error.hint) from None

    def check_decoding(self) -> None:
        for number, mixer in enumerate(self.mixers):
            try:
                mixer.check_decoding()
            except FieldError as error:
                raise FieldError(f"mixers.{number}.{error.field}", error.fact, error.wish, error.hint) from None

    def build(self, *, d_model: int, layer: int, d_memory: int | None = None) -> nn.Module:
        return Beside([mixer.build(d_model=d_model, layer=layer, d_memory=d_memory) for mixer in self.mixers])
