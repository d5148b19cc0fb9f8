"""Integrated gradients: the gradient along the way from a text without content to the text."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from attnlib.errors import UsageError
from attnlib.inspect.explanations.method import Method, Scores, stacked
from attnlib.inspect.question import Inputs, Question, gradients


class IntegratedGradients(Method, name="integrated_gradients"):
    """(e_t - b_t) . integral of d value / d e_t along b + a (e - b), a from 0 to 1 (Sundararajan et al. 2017).

    b is the embedding of the blank token, or the mean of the table; what the tokenizer added stays as it is, and both
    sides of an encoder-decoder go the way together. The scores add up to value(e) - value(b): the note
    `completeness_error` is what they miss, as a part of that difference. The integral is a Gauss-Legendre sum on `parts`
    equal stretches of 8 points, which are doubled until the error is below `tolerance` or there are `most` points.
    """

    def __init__(self, *, tolerance: float = 0.005, points: int = 32, most: int = 512) -> None:
        if not 8 <= points <= most:
            raise UsageError("integrated_gradients.points", f"is {points}", f"must lie in 8..{most}")
        self.tolerance, self.points, self.most = tolerance, points, most

    def __call__(self, question: Question) -> Scores:
        parts, errors = [], []
        for _, some in question.each():
            found, error = self._refined(some)
            parts.append(found)
            errors.append(error)
        return Scores(stacked(question, parts), {"completeness_error": torch.cat(errors)})

    def _refined(self, some: Question) -> tuple[dict[str, Tensor], Tensor]:
        """Scores and completeness errors of as many points as are needed."""
        count = len(some.targets)
        there = some.inputs(count)
        here = {side.name: replace(there[side.name], embeds=some.blanks(side).expand(count, -1, -1)) for side in some.sides}
        with torch.no_grad():
            gained = (_values(some, there) - _values(some, here)).double()
        points = self.points
        while True:
            found = _integral(some, here, there, points // 8)
            total = torch.stack([scores.sum(1) for scores in found.values()]).sum(0)
            error = (total - gained).abs() / gained.abs().clamp(min=1e-12)
            if points * 2 > self.most or bool((error <= self.tolerance).all()):
                return found, error.cpu()
            points *= 2


def _values(some: Question, inputs: Inputs) -> Tensor:
    return some.values(some.logits(inputs)).diagonal()


def _integral(some: Question, here: Inputs, there: Inputs, stretches: int) -> dict[str, Tensor]:
    at, weights = np.polynomial.legendre.leggauss(8)
    total: dict[str, Tensor] = {}
    for number in range(stretches):
        for x, w in zip((at + 1) / 2, weights / 2, strict=True):
            a = (number + float(x)) / stretches
            way = {n: replace(there[n], embeds=torch.lerp(here[n].embeds, there[n].embeds, a)) for n in there}
            grads, _ = gradients(some, way)
            for name, grad in grads.items():
                step = ((there[name].embeds - here[name].embeds).double() * grad.double()).sum(-1)
                total[name] = total.get(name, 0.0) + step * (float(w) / stretches)
    return total
