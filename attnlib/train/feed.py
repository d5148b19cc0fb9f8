"""Batches by step: a pure function of (seed, step), so that a resumed run sees what an uninterrupted one sees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from attnlib.errors import DataError
from attnlib.text.tokenizer import Tokenizer
from attnlib.train.batch import Batch
from attnlib.train.data import Row
from attnlib.train.objectives import Objective
from attnlib.train.order import batch_indices, example_rng

_EVALUATION = 2**32  # stands for the epoch in the randomness of an evaluation, which is the same every time


class Feed:
    """The training batches of some rows; `length`: most tokens a sequence, `batch_size`: examples a rank and step."""

    def __init__(
        self,
        objective: Objective,
        tokenizer: Tokenizer,
        rows: Sequence[Row],
        *,
        length: int,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.objective, self.tokenizer, self.seed = objective, tokenizer, seed
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size
        self.examples = objective.examples(rows, tokenizer, length)

    @property
    def steps_per_epoch(self) -> float:
        """Steps until every example has been seen once."""
        return len(self.examples) / (self.batch_size * self.world_size)

    def batch(self, step: int) -> Batch:
        """The batch of a step, whatever came before it."""
        n = len(self.examples)
        epochs, indices = batch_indices(self.seed, step, n, self.batch_size, rank=self.rank, world_size=self.world_size)
        drawn = list(zip(epochs.tolist(), indices.tolist()))
        examples = [self.examples.example(index, epoch, self.seed) for epoch, index in drawn]
        rngs = [example_rng(self.seed, *each) for each in drawn] if self.objective.random else []
        return self.objective.batch(examples, self.tokenizer, rngs)


class Evaluation:
    """Every example of some held-out rows once, in order, corrupted in the same way each time."""

    def __init__(
        self,
        objective: Objective,
        tokenizer: Tokenizer,
        rows: Sequence[Row],
        *,
        length: int,
        batch_size: int,
        seed: int = 0,
    ) -> None:
        if not rows:
            raise DataError("data.held_out", "leaves nothing to evaluate on", "must hold out at least one row")
        self.objective, self.tokenizer, self.batch_size, self.seed = objective, tokenizer, batch_size, seed
        self.examples = objective.examples(rows, tokenizer, length, training=False)

    def __iter__(self) -> Iterator[Batch]:
        n = len(self.examples)
        for first in range(0, n, self.batch_size):
            indices = range(first, min(first + self.batch_size, n))
            examples = [self.examples.example(index) for index in indices]
            rngs = [example_rng(self.seed, _EVALUATION, i) for i in indices] if self.objective.random else []
            yield self.objective.batch(examples, self.tokenizer, rngs)

    @torch.inference_mode()
    def scores(self, model: nn.Module, device: torch.device | str = "cpu") -> dict[str, float]:
        """The objective's scores of the model over all examples, in eval mode; the mode is put back."""
        was_training, nll = model.training, 0.0
        predicted, labels = [], []
        model.eval()
        try:
            for batch in self:
                there = batch.to(device)
                logits, _ = self.objective.logits(model, there)
                nll += float(nn.functional.cross_entropy(logits.float(), there.labels, reduction="sum"))
                predicted.append(logits.argmax(-1).cpu())
                labels.append(batch.labels)
        finally:
            model.train(was_training)
        return self.objective.scores(nll, torch.cat(predicted), torch.cat(labels), self.examples)
