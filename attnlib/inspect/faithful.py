"""Faithfulness: whether the tokens that a method points at are those that the model's answer hangs on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnlib.errors import UsageError
from attnlib.generate.prompts import evaluating
from attnlib.inspect.explanations import Explanation, Method, find_method, why
from attnlib.inspect.question import TOKENS_AT_ONCE, Question
from attnlib.inspect.removal import known_way, without

Array = NDArray[np.float64]
SHARES = tuple(i / 10 for i in range(11))  # of the units, taken away or put in: the curves
BINS = (0.01, 0.05, 0.1, 0.2, 0.5)  # ... for comprehensiveness and sufficiency, as ERASER has them
UNITS = ("word", "token")

Unit = tuple[str, tuple[int, ...]]  # a side and columns of it


@dataclass(frozen=True, eq=False)
class Curves:
    """How the probability of the answer falls and rises by one method's order, averaged over texts and targets.

    deletion:  [11] probability without the best 0, 10, .. 100% of the units; insertion: with nothing but those.
    comprehensiveness, sufficiency: DeYoung et al. 2020, over the best 1, 5, 10, 20, 50%: what the probability loses without
    them (more is better), and with nothing else (less is better).
    spread:    standard deviation over draws of the four figures below, of the random order only.
    """

    method: str
    deletion: Array
    insertion: Array
    comprehensiveness: float
    sufficiency: float
    count: int
    spread: tuple[float, float, float, float] | None = None

    @property
    def deletion_area(self) -> float:
        """Mean height of the deletion curve, by trapezia: less is better (Samek et al. 2017)."""
        return float(np.trapezoid(self.deletion, SHARES))

    @property
    def insertion_area(self) -> float:
        """Mean height of the insertion curve: more is better (Petsiuk et al. 2018)."""
        return float(np.trapezoid(self.insertion, SHARES))

    @property
    def figures(self) -> tuple[float, float, float, float]:
        return self.deletion_area, self.insertion_area, self.comprehensiveness, self.sufficiency


def faithfulness(
    questions: Sequence[Question],
    methods: Sequence[str | Method],
    *,
    unit: str = "word",
    way: str = "hide",
    draws: int = 10,
    seed: int = 0,
) -> list[Curves]:
    """Curves of each method over all questions and targets, those of a random order last.

    unit: what is ranked and taken away, "word" (scores of its tokens added up) or "token"; those of source and text are
    ranked together. way: see `attnlib.inspect.removal`. draws: of the random order, for each target.
    Raises UsageError for what is unknown, and where a method refuses a model.
    """
    if unit not in UNITS:
        raise UsageError(f"unit {unit}", "is unknown", f"wish one of {', '.join(UNITS)}")
    if draws < 1:
        raise UsageError("draws", f"is {draws}", "must be at least 1")
    known_way(way)
    chosen = [method for method in map(find_method, methods) if method.name != "random"]
    ordered: dict[str, list[list[Array]]] = {method.name: [] for method in chosen}
    drawn: list[list[list[Array]]] = [[] for _ in range(draws)]
    for question in questions:
        units = units_of(question, unit)
        found = [why(question, method) for method in chosen]
        for number in range(len(question.targets)):
            one = replace(question, targets=(question.targets[number],))
            orders = [_order(explanation, units, number) for explanation in found]
            made = np.random.default_rng([seed, number, len(units)])
            orders += [made.permutation(len(units)) for _ in range(draws)]
            probabilities = list(_along(one, units, orders, way))
            for explanation, curves in zip(found, probabilities):
                ordered[explanation.method].append(curves)
            for draw, curves in zip(drawn, probabilities[len(found) :]):
                draw.append(curves)
    results = [_averaged(name, curves) for name, curves in ordered.items()]
    return [*results, _random(drawn)]


def units_of(question: Question, unit: str) -> list[Unit]:
    """The user's own words or tokens, of every side."""
    if unit == "token":
        return [(side.name, (column,)) for side in question.sides for column in side.own]
    return [(side.name, word.columns) for side in question.sides for word in side.words]


def _order(explanation: Explanation, units: Sequence[Unit], target: int) -> NDArray[np.int64]:
    """The units from the highest score to the lowest."""
    scores = [explanation.scores[side][target, list(columns)].sum() for side, columns in units]
    return np.argsort(-np.asarray(scores), kind="stable")


def _along(one: Question, units: Sequence[Unit], orders: Sequence[NDArray[np.int64]], way: str) -> Iterator[list[Array]]:
    """For each order the probabilities of deletion and insertion at SHARES, then at BINS."""
    counts = [round(share * len(units)) for share in SHARES]
    counts += [max(1, round(share * len(units))) for share in BINS]
    jobs = []
    for order in orders:
        jobs += [order[:count] for count in counts]
        jobs += [order[count:] for count in counts]
    values = _without(one, units, jobs, way)
    for at in range(0, len(values), 2 * len(counts)):
        gone, kept = values[at : at + len(counts)], values[at + len(counts) : at + 2 * len(counts)]
        yield [gone[: len(SHARES)], kept[: len(SHARES)], gone[len(SHARES) :], kept[len(SHARES) :]]


@torch.no_grad()
def _without(one: Question, units: Sequence[Unit], jobs: Sequence[NDArray[np.int64]], way: str) -> Array:
    """[jobs] probability of the answer without the units named."""
    tokens = {side.name: len(side) for side in one.sides}
    size = max(1, TOKENS_AT_ONCE // sum(tokens.values()))
    found = []
    with evaluating(one.model):
        for first in range(0, len(jobs), size):
            some = jobs[first : first + size]
            gone = _marks(units, some, tokens, one.table("text").device)
            found.append(one.logprobs(one.logits(without(one, gone, way)))[:, 0].double().exp().cpu().numpy())
    return np.concatenate(found)


def _marks(
    units: Sequence[Unit], jobs: Sequence[NDArray[np.int64]], tokens: dict[str, int], device: torch.device
) -> dict[str, Tensor]:
    """By side [jobs, T]: the tokens of the units of each job."""
    gone = {name: torch.zeros(len(jobs), count, dtype=torch.bool) for name, count in tokens.items()}
    for row, job in enumerate(jobs):
        for number in job:
            side, columns = units[number]
            gone[side][row, list(columns)] = True
    return {name: mark.to(device) for name, mark in gone.items()}


def _averaged(name: str, curves: Sequence[Sequence[Array]]) -> Curves:
    deletion, insertion, without_best, only_best = (np.mean([one[part] for one in curves], 0) for part in range(4))
    whole = float(deletion[0])
    return Curves(
        name, deletion, insertion, whole - float(without_best.mean()), whole - float(only_best.mean()), len(curves)
    )


def _random(drawn: Sequence[Sequence[Sequence[Array]]]) -> Curves:
    draws = [_averaged("random", curves) for curves in drawn]
    mean = _averaged("random", [curves for draw in drawn for curves in draw])
    deviations = np.std([draw.figures for draw in draws], 0)
    a, b, c, d = (float(deviation) for deviation in deviations)
    return replace(mean, count=draws[0].count, spread=(a, b, c, d))
