"""What recurrent networks have in common as mixers: direction, cache, output."""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from attnlib.attention.caches import LayerCache, Memory, Slots
from attnlib.attention.exact import exact, unmixed
from attnlib.attention.linear.mixer import check_direction, refuse_cross
from attnlib.attention.linear.texts import Texts
from attnlib.attention.masks import Everything, Mask, Retention, terms
from attnlib.attention.scope import Scope
from attnlib.attention.softmax import MixerSpec, Role
from attnlib.attention.state_cache import StateCache
from attnlib.layout import Layout
from attnlib.nn.linear import Linear

States = dict[str, Tensor]


class Cell(nn.Module):
    """One direction of a recurrent network over texts."""

    def forward(self, x: Tensor, layout: Layout, held: States, *, back: bool, keep: bool) -> tuple[Tensor, States]:
        """x [B, T, M] -> h [B, T, N] of every token, and the state after the last one of each row where `keep` asks.

        held: the state before, empty = zeros. back: each text in reverse.
        """
        raise NotImplementedError

    def how(self, layout: Layout, *, keep: bool) -> str:
        """What computes these tokens, for `explain`."""
        raise NotImplementedError


class RecurrentMixer(nn.Module):
    """W h + b, h of a recurrent cell over the text: x [B, T, M] -> [B, T, M].

    Under a mask of everything a second cell reads each text in reverse, and W sees both (Schuster & Paliwal 1997).
    """

    stateful = True  # its cache is a state: no columns of the past
    why_no_weights = "passes tokens through a nonlinear state: none has a share in the output"

    def __init__(self, cells: list[Cell], *, d_hidden: int, d_model: int, mask: Mask) -> None:
        super().__init__()
        self.mask, self.cells, self.d_hidden = mask, nn.ModuleList(cells), d_hidden
        self.out = Linear(len(cells) * d_hidden, d_model)
        self.path = "attention"

    def forward(
        self,
        x: Tensor,
        layout: Layout | None = None,
        scope: Scope | None = None,
        *,
        memory: Memory | None = None,
        cache: StateCache | None = None,
    ) -> Tensor:
        layout = layout or Layout.dense(x.shape[0], x.shape[1], device=x.device)
        found, left = [], {}
        with unmixed(x):
            given = exact(x)
            for back, cell in enumerate(self.cells):
                held = {} if cache is None or back else cache.held
                h, state = cell(given, layout, held, back=bool(back), keep=cache is not None and not back)
                found.append(h)
                left.update(state)
        if cache is not None:
            cache.held = {name: t.contiguous() for name, t in left.items()}
        return Texts.of(layout).keep(self.out(torch.cat(found, -1).to(x.dtype)))

    def remember(self, x: Tensor, layout: Layout) -> Memory:
        raise NotImplementedError

    @property
    def in_words(self) -> str:
        """What it is, for `explain`."""
        return f"{type(self.cells[0]).__name__}, state of {self.d_hidden}"

    def how(self, layout: Layout, memory: Memory | None, cache: StateCache | None) -> str:
        """What computes these tokens, for `explain`."""
        told = cast(Cell, self.cells[0]).how(layout, keep=cache is not None)
        return told if len(self.cells) == 1 else f"{told}, forward and back"

    def keeps(self) -> Retention:
        return Retention(0, 0)

    def new_cache(self, slots: Slots) -> LayerCache:
        return StateCache()


class RecurrentSpec(MixerSpec):
    """d_hidden: width of the state, null = d_model. mask: causal, or everything: a second network reads backward."""

    d_hidden: int | None = Field(default=None, ge=1)
    mask: Mask = Everything()
    cell: ClassVar[type[Cell]]

    def check(self, *, d_model: int, role: Role) -> None:
        check_direction(self.mask, self.kind)
        if role == "cross":
            refuse_cross(self.kind)

    def build(self, *, d_model: int, layer: int, d_memory: int | None = None) -> nn.Module:
        width = self.d_hidden or d_model
        cells = [type(self).cell(d_model, width) for _ in range(1 if terms(self.mask).after == 0 else 2)]
        return RecurrentMixer(cells, d_hidden=width, d_model=d_model, mask=self.mask)
