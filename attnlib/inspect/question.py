"""A question put to a model: what of its output is to be explained, and the inputs that may be changed to find out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from attnlib.generate.prompts import device_of
from attnlib.inspect.reading import Reading, Side
from attnlib.inspect.targets import Target
from attnlib.layout import Layout
from attnlib.models.encoder_decoder import EncoderDecoder
from attnlib.models.heads import PooledHead, read_head

TOKENS_AT_ONCE = 4096  # of all rows of one forward: bounds memory


@dataclass(frozen=True)
class Rows:
    """One side's inputs: embeddings [B, T, E], looked up and not yet scaled, and where they stand."""

    embeds: Tensor
    layout: Layout

    def repeat(self, count: int) -> Rows:
        """A single row as `count` equal ones."""
        tokens = self.embeds.shape[1]
        return Rows(self.embeds.expand(count, -1, -1), Layout.dense(count, tokens, device=self.embeds.device))


Inputs = dict[str, Rows]  # by the side's name


@dataclass(frozen=True)
class Question:
    """Targets of one reading of a model, which is in evaluation mode.

    blank: the id that stands for a token taken away, where the vocabulary has one (mask, unknown or pad).
    """

    model: Any
    reading: Reading
    targets: tuple[Target, ...]
    blank: int | None = None

    @property
    def sides(self) -> tuple[Side, ...]:
        return self.reading.sides

    def table(self, side: str) -> Tensor:
        """[V, E] the embedding table that a side reads."""
        own = None if side == "source" else getattr(self.model, "decoder_embedding", None)
        weight: Tensor = (own or self.model.embedding).token.weight
        return weight.detach()

    def inputs(self, count: int = 1) -> Inputs:
        """The reading as it is, in `count` equal rows."""
        made: Inputs = {}
        for side in self.sides:
            ids = torch.tensor([side.ids], device=device_of(self.model))
            made[side.name] = Rows(self.table(side.name)[ids], Layout.dense(1, len(side), device=ids.device)).repeat(count)
        return made

    def blanks(self, side: Side) -> Tensor:
        """[T, E] what each token's embedding is without it: the blank's, or the table's mean; what is not own stays."""
        table, plain = self.table(side.name), self.inputs()[side.name].embeds[0]
        nothing = table.mean(0) if self.blank is None else table[self.blank]
        own = torch.zeros(len(side), dtype=torch.bool, device=plain.device)
        own[list(side.own)] = True
        return torch.where(own[:, None], nothing, plain)

    def logits(self, inputs: Inputs) -> Tensor:
        """[B, C, V] at the columns of all targets in order, or [B, L] of a head that reads a whole text."""
        text = inputs["text"]
        at = self._at(text.embeds)
        if isinstance(self.model, EncoderDecoder):
            source = inputs["source"]
            out = self.model(None, None, source.layout, text.layout, embeds=source.embeds, decoder_embeds=text.embeds, at=at)
        else:
            out = self.model(None, text.layout, embeds=text.embeds, at=at)
        return _by_column(out.logits, at)

    def read(self, x: Tensor) -> Tensor:
        """As `logits`, of the writing side's stream x [B, T, M] after the final norm."""
        at, layout = self._at(x), Layout.dense(x.shape[0], x.shape[1], device=x.device)
        logits = read_head(self.model.head, x, self.table("text"), layout, at, True).logits
        assert logits is not None
        return _by_column(logits, at)

    def decode(self, memory: Tensor) -> Tensor:
        """[B, T, M] the decoder's stream after the final norm, where the encoder gave `memory` [B, S, M]."""
        text = self.inputs(memory.shape[0])["text"]
        kept = self.model.decoder.remember(memory, Layout.dense(*memory.shape[:2], device=memory.device))
        x = (self.model.decoder_embedding or self.model.embedding)(None, text.layout, embeds=text.embeds)
        last: Tensor = self.model.decoder(x, text.layout, memory=kept).last
        return last

    def values(self, logits: Tensor) -> Tensor:
        """[B, N] every target of every row."""
        return torch.stack([target.value(part) for target, part in zip(self.targets, self.parts(logits))], 1)

    def logprobs(self, logits: Tensor) -> Tensor:
        """[B, N] in nats."""
        return torch.stack([target.logprob(part) for target, part in zip(self.targets, self.parts(logits))], 1)

    def parts(self, logits: Tensor) -> list[Tensor]:
        """For each target the logits that it reads: [B, C, V] at its own columns, or [B, L]."""
        return [self.part(logits, target) for target in self.targets]

    def each(self) -> Iterator[tuple[slice, Question]]:
        """The targets in groups small enough for one forward of a row a target."""
        size = max(1, TOKENS_AT_ONCE // sum(len(side) for side in self.sides))
        for first in range(0, len(self.targets), size):
            part = slice(first, first + size)
            yield part, replace(self, targets=self.targets[part])

    def shares(self) -> Tensor:
        """[N, T] from which columns of the writing side's stream each target is read, in parts of one."""
        tokens = len(self.reading.text)
        found = torch.zeros(len(self.targets), tokens, dtype=torch.float64)
        for number, target in enumerate(self.targets):
            columns = self._pooled(tokens) if target.rows is None else target.rows
            found[number, list(columns)] = 1.0 / len(columns)
        return found

    def _pooled(self, tokens: int) -> tuple[int, ...]:
        head = self.model.head
        pooling = head.pooling if isinstance(head, PooledHead) else "mean"
        return {"first": (0,), "last": (tokens - 1,)}.get(pooling, tuple(range(tokens)))

    def _columns(self) -> list[int] | None:
        wanted = [target.columns for target in self.targets]
        return sorted({c for columns in wanted for c in columns or ()}) if all(c is not None for c in wanted) else None

    def _at(self, x: Tensor) -> Tensor | None:
        columns = self._columns()
        if columns is None:
            return None
        at = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        at[:, columns] = True
        return at

    def part(self, logits: Tensor, target: Target) -> Tensor:
        """The logits that one of the targets reads."""
        columns = self._columns()
        if columns is None or target.columns is None:
            return logits
        return logits[:, [columns.index(c) for c in target.columns]]


def _by_column(logits: Tensor, at: Tensor | None) -> Tensor:
    """Logits [B * C, V] as [B, C, V], those of a text as they are, in float32 or more."""
    wide = logits if at is None else logits.unflatten(0, (at.shape[0], -1))
    return wide.to(torch.promote_types(wide.dtype, torch.float32))


def own_values(question: Question, inputs: Inputs) -> Tensor:
    """[N] target n of row n."""
    logits, targets = question.logits(inputs), question.targets
    if all(target is targets[0] for target in targets):
        return targets[0].value(question.part(logits, targets[0]))
    rows = logits.split(1)  # each read by its own target alone: by all of them they would grow as the square of the rows
    return torch.cat([target.value(question.part(row, target)) for target, row in zip(targets, rows, strict=True)])


def gradients(question: Question, inputs: Inputs) -> tuple[dict[str, Tensor], Tensor]:
    """By side [N, T, E]: the gradient of target n at row n's embeddings; and the values [N]."""
    with torch.enable_grad():
        leaves = {name: rows.embeds.detach().clone().requires_grad_() for name, rows in inputs.items()}
        values = own_values(question, {name: replace(rows, embeds=leaves[name]) for name, rows in inputs.items()})
        found = torch.autograd.grad(values.sum(), list(leaves.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(leaves, found)), values.detach()
