"""Reductions: what is made of weights as they pass, a block of query rows at a time, so that no map is kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol

from torch import Tensor

from attnlib.inspect.rows import Application, Block, Call


class Reducing(Protocol):
    """One call on its way."""

    def add(self, block: Block) -> None:
        """One block of rows of some heads; what it holds may be gone after."""


class Reduced(ABC):
    """The reduction of one attention over one text while it grows, of all rows of the batch."""

    @abstractmethod
    def begin(self, seen: Application, call: Call) -> Reducing:
        """One call, to hand the blocks to."""

    @abstractmethod
    def end(self, made: Any) -> None:
        """All blocks of the call were handed over."""

    def select(self, rows: Tensor) -> None:  # noqa: B027
        """Other rows stand for the text from here on, as beams do."""


class Reduction(ABC):
    """What to reduce weights to, as `record(model, summaries=...)` takes it."""

    @abstractmethod
    def opened(self, path: str, heads: tuple[int, ...], *, source: bool, batch: int) -> Reduced:
        """Another text begins at an attention; source: whether an encoder stands before the stack."""
