"""Chance: scores that know nothing, for the others to be held against."""

from __future__ import annotations

import torch

from attnlib.inspect.explanations.method import Method, Scores
from attnlib.inspect.question import Question


class Chance(Method, name="random", signed=False):
    """Uniform numbers in [0, 1), drawn by `seed`: the baseline, not an explanation."""

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed

    def __call__(self, question: Question) -> Scores:
        made = torch.Generator().manual_seed(self.seed)
        shape = len(question.targets)
        return Scores({s.name: torch.rand(shape, len(s), generator=made, dtype=torch.float64) for s in question.sides})
