"""Targets: the number of a model's output that is to be explained."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F


class Target:
    """A number of the model's output: a logit, or one less another.

    name:    how it is told.
    columns: of the side that writes, where the head is read; None = it reads the whole text (a pooled head).
    rows:    the columns whose stream the number comes from; None = those that the head pools.
    """

    name: str
    columns: tuple[int, ...] | None

    @property
    def rows(self) -> tuple[int, ...] | None:
        return self.columns

    def value(self, logits: Tensor) -> Tensor:
        """[B] the logit, of logits [B, C, V] at the columns, or [B, L]."""
        raise NotImplementedError

    def logprob(self, logits: Tensor) -> Tensor:
        """[B] log-probability of the answer, in nats."""
        raise NotImplementedError

    def choices(self, logits: Tensor) -> Tensor | None:
        """[B, V] the logits of all that the answer is one of; None where it is not one of several."""
        return None


@dataclass(frozen=True)
class TokenTarget(Target):
    """The logit of an answer (a token of the vocabulary, a label) in one column, less that of another if given."""

    name: str
    column: int
    answer: int
    against: int | None = None
    alone: bool = False  # a single label, answered by a sigmoid

    @property
    def columns(self) -> tuple[int, ...]:  # type: ignore[override]
        return (self.column,)

    def value(self, logits: Tensor) -> Tensor:
        return logits[:, 0, self.answer] - (0.0 if self.against is None else logits[:, 0, self.against])

    def logprob(self, logits: Tensor) -> Tensor:
        return (F.logsigmoid(logits[:, 0]) if self.alone else logits[:, 0].log_softmax(-1))[:, self.answer]

    def choices(self, logits: Tensor) -> Tensor | None:
        return None if self.alone else logits[:, 0]


@dataclass(frozen=True)
class ClassTarget(Target):
    """The logit of a label of the whole text, less that of another if given."""

    name: str
    label: int
    against: int | None = None
    alone: bool = False  # each label is a question of its own, answered by a sigmoid
    columns: tuple[int, ...] | None = None

    def value(self, logits: Tensor) -> Tensor:
        return logits[:, self.label] - (0.0 if self.against is None else logits[:, self.against])

    def logprob(self, logits: Tensor) -> Tensor:
        return (F.logsigmoid(logits) if self.alone else logits.log_softmax(-1))[:, self.label]

    def choices(self, logits: Tensor) -> Tensor | None:
        return None if self.alone else logits


@dataclass(frozen=True)
class SpanTarget(Target):
    """Start logit of one token and end logit of another."""

    name: str
    start: int
    end: int
    tokens: int

    @property
    def columns(self) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(range(self.tokens))

    @property
    def rows(self) -> tuple[int, ...]:
        return (self.start, self.end)

    def value(self, logits: Tensor) -> Tensor:
        return logits[:, self.start, 0] + logits[:, self.end, 1]

    def logprob(self, logits: Tensor) -> Tensor:
        over = logits.log_softmax(1)
        return over[:, self.start, 0] + over[:, self.end, 1]
