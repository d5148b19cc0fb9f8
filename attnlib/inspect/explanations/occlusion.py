"""Occlusion: what the target loses when a token is taken away."""

from __future__ import annotations

import torch
from torch import Tensor

from attnlib.inspect.explanations.method import Method, Scores
from attnlib.inspect.question import TOKENS_AT_ONCE, Question
from attnlib.inspect.reading import Side
from attnlib.inspect.removal import cut, known_way


class Occlusion(Method, name="occlusion"):
    """value(text) - value(text without token t), a forward a token (Zeiler & Fergus 2014; Li et al. 2016).

    way: "hide" (no other token sees it; where the target itself is read, a blank stands) or "blank". What the tokenizer or
    the model added is kept and scores zero.
    """

    def __init__(self, *, way: str = "hide") -> None:
        self.way = known_way(way)

    @torch.no_grad()
    def __call__(self, question: Question) -> Scores:
        whole = question.values(question.logits(question.inputs()))[0].double().cpu()  # [N]
        return Scores({side.name: self._losses(question, side, whole) for side in question.sides})

    def _losses(self, question: Question, side: Side, whole: Tensor) -> Tensor:
        """[N, T]"""
        scores = torch.zeros(len(question.targets), len(side), dtype=torch.float64)
        reads = torch.zeros(scores.shape, dtype=torch.bool)  # targets that are read from the column itself
        if side.name == "text":
            for number, target in enumerate(question.targets):
                reads[number, list(target.rows or ())] = True
        hide = [(column, True) for column in side.own] if self.way == "hide" else []
        blank = [(c, False) for c in side.own if self.way == "blank" or bool(reads[:, c].any())]
        size = max(1, TOKENS_AT_ONCE // sum(len(s) for s in question.sides))
        jobs = hide + blank
        for first in range(0, len(jobs), size):
            some = jobs[first : first + size]
            values = self._values(question, side, some)
            for (column, hidden), value in zip(some, values, strict=True):
                where = reads[:, column] if hide and not hidden else torch.ones(len(whole), dtype=torch.bool)
                scores[where, column] = (whole - value)[where]
        return scores

    def _values(self, question: Question, side: Side, jobs: list[tuple[int, bool]]) -> Tensor:
        """[jobs, N] the targets without one token each."""
        gone = torch.zeros(len(jobs), len(side), dtype=torch.bool, device=question.table(side.name).device)
        gone[range(len(jobs)), [column for column, _ in jobs]] = True
        hidden = gone & torch.tensor([hide for _, hide in jobs], device=gone.device)[:, None]
        inputs = cut(question, {side.name: gone}, {side.name: hidden})
        return question.values(question.logits(inputs)).double().cpu()
