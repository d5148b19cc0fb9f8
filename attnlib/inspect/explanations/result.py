"""An explanation: what a method said of each token, and of each word, for each target."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnlib.inspect.reading import Side, Word

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Explanation:
    """scores[side][n, t]: what token t of a side has to do with target n, by one method.

    signed:  below zero speaks against the target; else scores are amounts.
    targets: what was explained, by name; `values` [N] the logits, `logprobs` [N] in nats.
    columns: where in the text each target was read off, None of a head that reads the whole.
    sides:   the texts read, the source first; their tokens, and the characters and words they stand for.
    notes:   what else the method found out, by name, [N] each; such as `completeness_error`.
    """

    method: str
    signed: bool
    targets: tuple[str, ...]
    values: Array
    logprobs: Array
    columns: tuple[int | None, ...]
    sides: tuple[Side, ...]
    scores: dict[str, Array]
    notes: dict[str, Array] = field(default_factory=dict)

    def side(self, name: str) -> Side:
        return next(side for side in self.sides if side.name == name)

    def words(self, side: str, target: int = 0) -> list[tuple[Word, float]]:
        """The words of a side with the sum of their tokens' scores."""
        row = self.scores[side][target]
        return [(word, float(row[list(word.columns)].sum())) for word in self.side(side).words]

    def best(self, count: int, target: int = 0) -> list[tuple[str, Word, float]]:
        """The `count` words that scored highest, of all sides: (side, word, score)."""
        found = [(side.name, word, score) for side in self.sides for word, score in self.words(side.name, target)]
        return sorted(found, key=lambda one: -one[2])[:count]

    def tree(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        targets = [
            {"name": name, "column": column, "logit": float(value), "logprob": float(logprob)}
            | {key: float(found[n]) for key, found in self.notes.items()}
            for n, (name, column, value, logprob) in enumerate(
                zip(self.targets, self.columns, self.values, self.logprobs, strict=True)
            )
        ]
        return {
            "method": self.method,
            "signed": self.signed,
            "targets": targets,
            "sides": [self._side(s) for s in self.sides],
        }

    def _side(self, side: Side) -> dict[str, Any]:
        words = [{"text": w.text, "span": list(w.span), "tokens": list(w.columns)} for w in side.words]
        return {
            "name": side.name,
            "text": side.text,
            "tokens": list(side.tokens),
            "ids": list(side.ids),
            "spans": [None if span is None else list(span) for span in side.spans],
            "scores": self.scores[side.name].tolist(),
            "words": words,
            "word_scores": [[score for _, score in self.words(side.name, n)] for n in range(len(self.targets))],
        }

    def json(self) -> str:
        return json.dumps(self.tree(), ensure_ascii=False)
