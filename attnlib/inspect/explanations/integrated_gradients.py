"""Integrated gradients: the gradient along the way from a text without content to the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from attnlib.errors import UsageError
from attnlib.inspect.explanations.method import Method, Scores, stacked
from attnlib.inspect.question import TOKENS_AT_ONCE, Inputs, Question, gradients

_AT, _SHARE = np.polynomial.legendre.leggauss(8)  # eight points of a stretch, and their weights
_POINTS = torch.from_numpy((_AT + 1) / 2), torch.from_numpy(_SHARE / 2)


class IntegratedGradients(Method, name="integrated_gradients"):
    """(e_t - b_t) . integral of d value / d e_t along b + a (e - b), a from 0 to 1 (Sundararajan et al. 2017).

    b is the embedding of the blank token, or the mean of the table; what the tokenizer added stays as it is, and both
    sides of an encoder-decoder go the way together. The scores add up to value(e) - value(b): the note
    `completeness_error` is what they miss, as a part of that difference. The way is cut into stretches of eight
    Gauss-Legendre points; one that misses the difference between its own ends is halved, until all together miss less
    than `tolerance`, or `most` points are used.
    """

    def __init__(self, *, tolerance: float = 0.005, most: int = 512) -> None:
        if most < 8:
            raise UsageError("integrated_gradients.most", f"is {most}", "must be at least 8 points")
        self.tolerance, self.most = tolerance, most

    def __call__(self, question: Question) -> Scores:
        found = [self._one(replace(question, targets=(target,))) for target in question.targets]
        errors = torch.tensor([error for _, error in found], dtype=torch.float64)
        return Scores(stacked(question, [scores for scores, _ in found]), {"completeness_error": errors})

    def _one(self, one: Question) -> tuple[dict[str, Tensor], float]:
        """Scores [1, T] by side for a single target, and the completeness error."""
        way = _Way.of(one)
        gained = way.value(1.0) - way.value(0.0)
        done = way.stretches([(i / 4, (i + 1) / 4) for i in range(4 if self.most >= 32 else 1)])
        while True:
            missed, bound = sum(part.error for part in done), self.tolerance * abs(gained)
            worst = [part for part in done if part.error > bound / (2 * len(done))]
            if missed <= bound or 8 * (len(done) + len(worst)) > self.most:
                break
            halves = [half for part in worst for half in part.halves()]
            done = [part for part in done if part not in worst] + way.stretches(halves)
        scores = {side: torch.stack([part.scores[side] for part in done]).sum(0) for side in done[0].scores}
        total = sum(float(found.sum()) for found in scores.values())
        return scores, abs(total - gained) / max(abs(gained), 1e-12)


@dataclass(frozen=True, eq=False)
class _Stretch:
    """What the gradients from `start` to `end` add up to, [1, T] by side; error: how far from the true difference."""

    start: float
    end: float
    scores: dict[str, Tensor]
    error: float

    def halves(self) -> list[tuple[float, float]]:
        middle = (self.start + self.end) / 2
        return [(self.start, middle), (middle, self.end)]


@dataclass
class _Way:
    """The straight line from the inputs without content to the inputs, [1, T, E] each, and values known along it."""

    one: Question
    here: Inputs
    there: Inputs
    known: dict[float, float]

    @staticmethod
    def of(one: Question) -> _Way:
        there = one.inputs()
        here = {side.name: replace(there[side.name], embeds=one.blanks(side)[None]) for side in one.sides}
        return _Way(one, here, there, {})

    def at(self, places: Sequence[float]) -> Inputs:
        """A row a place."""
        a = torch.tensor(places, dtype=torch.float64)[:, None, None]
        made: Inputs = {}
        for name, rows in self.there.items():
            share = a.to(rows.embeds)
            embeds = self.here[name].embeds * (1 - share) + rows.embeds * share
            made[name] = replace(rows.repeat(len(places)), embeds=embeds)
        return made

    def value(self, place: float) -> float:
        if place not in self.known:
            with torch.no_grad():
                self.known[place] = float(self.one.values(self.one.logits(self.at([place])))[0, 0])
        return self.known[place]

    def stretches(self, ends: Sequence[tuple[float, float]]) -> list[_Stretch]:
        """The stretches between pairs of places, some in each forward."""
        tokens = sum(len(side) for side in self.one.sides)
        size = max(1, TOKENS_AT_ONCE // (8 * tokens))
        return [part for i in range(0, len(ends), size) for part in self._some(ends[i : i + size])]

    def _some(self, ends: Sequence[tuple[float, float]]) -> list[_Stretch]:
        places = [start + (end - start) * x for start, end in ends for x in _POINTS[0].tolist()]
        grads, _ = gradients(replace(self.one, targets=self.one.targets * len(places)), self.at(places))
        along = {n: ((self.there[n].embeds - self.here[n].embeds).double() * g.double()).sum(-1) for n, g in grads.items()}
        made = []
        for number, (start, end) in enumerate(ends):
            shares = (_POINTS[1] * (end - start)).to(next(iter(along.values())).device)
            scores = {n: (shares @ rows[8 * number : 8 * number + 8])[None] for n, rows in along.items()}
            total = sum(float(found.sum()) for found in scores.values())
            made.append(_Stretch(start, end, scores, abs(total - (self.value(end) - self.value(start)))))
        return made
