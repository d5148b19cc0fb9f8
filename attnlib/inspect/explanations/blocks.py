"""What each block and sublayer of a model was given in one forward, so that it can be run again on its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from attnlib.attention.caches import Memory
from attnlib.attention.scope import Door, Scope
from attnlib.inspect.question import Question
from attnlib.inspect.sites import stacks
from attnlib.layout import Layout
from attnlib.models.block import Block


@dataclass
class Ran:
    """One block as it ran: the side it writes to, the stream it got [1, T, M] and gave, its scope and its memory."""

    side: str
    block: Block
    x: Tensor
    scope: Scope
    memory: Memory | None
    out: Tensor
    inner: dict[str, Tensor] = field(default_factory=dict)  # the stream before "attention" and "cross"

    def again(self, rows: int, door: Door | None) -> Tensor:
        """The block's output [rows, T, M] over equal rows, with another door."""
        scope = self.scope.fresh()
        scope.door = door
        layout = Layout.dense(rows, self.x.shape[1], device=self.x.device)
        memory = self.memory
        if memory is not None:
            memory = memory.select(torch.zeros(rows, dtype=torch.long, device=self.x.device))
        out: Tensor = self.block(self.x.expand(rows, -1, -1), layout, scope, memory=memory)
        return out


def ran(question: Question) -> list[Ran]:
    """Every block in the order of a forward over the question's own inputs."""
    found: list[Ran] = []
    with torch.no_grad(), _watching(question.model, found):
        question.logits(question.inputs())
    return found


@contextmanager
def _watching(model: Any, found: list[Ran]) -> Iterator[None]:
    handles = []
    for stack in stacks(model).values():
        side = "source" if stack is getattr(model, "encoder", None) else "text"
        for block in stack.blocks:
            inner: dict[str, Tensor] = {}
            for name in ("attention", "cross"):
                part = getattr(block, name)
                if part is not None:
                    handles.append(part.register_forward_pre_hook(_into(inner, name)))
            handles.append(block.register_forward_hook(_kept(found, side, inner), with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _into(inner: dict[str, Tensor], name: str) -> Any:
    def hook(module: Any, given: tuple[Any, ...]) -> None:
        inner[name] = given[0]

    return hook


def _kept(found: list[Ran], side: str, inner: dict[str, Tensor]) -> Any:
    def hook(block: Any, given: tuple[Any, ...], named: dict[str, Any], out: Tensor) -> None:
        x, _, scope = given
        before = dict.fromkeys(inner, x) if block.parallel else dict(inner)
        found.append(Ran(side, block, x, scope, named.get("memory"), out, before))

    return hook
