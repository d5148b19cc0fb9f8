"""Scoring held-out rows while and after training: the objective's scores, and exact match by generation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from attnlib.generate import generate
from attnlib.text.tokenizer import Tokenizer
from attnlib.train.batch import Batch
from attnlib.train.data import Row, Splits
from attnlib.train.feed import Evaluation
from attnlib.train.metrics import generated_match
from attnlib.train.objectives import Objective
from attnlib.train.spec import EvaluateSpec, TrainSpec

Check = Callable[[], None]


class Evaluator:
    """The held-out rows of a run; names of figures begin with eval_, those of the harder split with eval_harder_.

    `check` is called between batches: it may raise to leave an evaluation early.
    """

    def __init__(self, objective: Objective, tokenizer: Tokenizer, splits: Splits, spec: TrainSpec) -> None:
        self.objective, self.tokenizer, self.spec = objective, tokenizer, spec
        self.splits: dict[str, Sequence[Row]] = {"eval_": splits.held_out}
        if spec.evaluate.harder:
            self.splits["eval_harder_"] = splits.harder
        self.splits = {name: rows for name, rows in self.splits.items() if rows}
        self._made: dict[tuple[str, bool], _Watched] = {}

    @property
    def asked(self) -> EvaluateSpec:
        return self.spec.evaluate

    def scores(
        self, model: nn.Module, device: torch.device, autocast: AbstractContextManager[None], check: Check, *, full: bool
    ) -> dict[str, float]:
        """Every figure of every split; `full`: over all rows."""
        found: dict[str, float] = {}
        with autocast:
            for name, rows in self.splits.items():
                scores = self._evaluation(name, rows, full, check).scores(model, device)
                match = self._match(model, rows if full else rows[: self.asked.rows], check)
                found |= {name + key: value for key, value in {**scores, **match}.items()}
        return found

    def _evaluation(self, name: str, rows: Sequence[Row], full: bool, check: Check) -> Evaluation:
        key = (name, full or self.asked.rows is None)
        if key not in self._made:
            size = self.asked.batch_size or self.spec.batch_size
            chosen = rows if key[1] else rows[: self.asked.rows]
            self._made[key] = _Watched(
                self.objective, self.tokenizer, chosen, length=self.spec.length, batch_size=size, seed=self.spec.seed
            )
        self._made[key].check = check
        return self._made[key]

    def _match(self, model: Any, rows: Sequence[Row], check: Check) -> Mapping[str, float]:
        """The share of targets that greedy generation from their source gives exactly."""
        if self.objective.columns != ("source", "target") or self.asked.match == 0:
            return {}
        rows = rows[: self.asked.match]
        longest = max(len(self.tokenizer.pieces(row["target"])) for row in rows) + 1

        def answer(sources: Sequence[str]) -> list[str]:
            check()
            ids = [self.tokenizer.encode(source, eos=True)[-self.spec.length :] for source in sources]
            most = min(longest, self.spec.length)
            made = generate(model, ids, tokenizer=self.tokenizer, max_new_tokens=most, temperature=0.0)
            return [one.text or "" for one in made]

        sources, targets = [row["source"] for row in rows], [row["target"] for row in rows]
        return {"exact_match": generated_match(sources, targets, answer)}


class _Watched(Evaluation):
    """An evaluation that can be left between two batches."""

    check: Check

    def __iter__(self) -> Iterator[Batch]:
        for batch in super().__iter__():
            self.check()
            yield batch
