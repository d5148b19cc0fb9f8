"""Sparsemax and 1.5-entmax: weights that are exactly zero for what scores too low."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from attnlib.attention.scores import Normaliser, NormaliserSpec


def sparsemax(scores: Tensor) -> Tensor:
    """The point of the simplex nearest to the scores, along the last dimension (Martins & Astudillo 2016, arXiv:1602.02068).

    p = max(s - t, 0), t so that p sums to 1; exact, by sorting.
    """
    return _Sparsemax.apply(scores)  # type: ignore[no-any-return, no-untyped-call]


def entmax15(scores: Tensor) -> Tensor:
    """p = max(s / 2 - t, 0)^2, t so that p sums to 1, along the last dimension (Peters et al. 2019, arXiv:1905.05702).

    Between softmax and sparsemax; exact, by sorting.
    """
    return _Entmax15.apply(scores)  # type: ignore[no-any-return, no-untyped-call]


def _sorted(scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores below their greatest, the same in falling order, and 1, 2, 3 ... beside them.

    What is 1 below the greatest has weight 0 in both maps, however far below: cut there, sums keep their digits.
    """
    z = (scores - scores.amax(-1, keepdim=True)).clamp(min=-1.0)
    count = torch.arange(1, z.shape[-1] + 1, device=z.device, dtype=z.dtype)
    return z, z.sort(-1, descending=True).values, count


def _support(z: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
    """What is above the threshold, as ones, and how much that is: its sums anew have all their digits in long rows too."""
    within = (z > threshold).to(z.dtype)
    return within, within.sum(-1, keepdim=True).clamp(min=1.0)


def _about_mean(slope: Tensor, grad: Tensor) -> Tensor:
    """The gradient of scores whose weights, a row of which sums to 1, move by `slope` each."""
    mean = (grad * slope).sum(-1, keepdim=True) / slope.sum(-1, keepdim=True)
    return slope * (grad - mean)


class _Sparsemax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor) -> Tensor:
        z, ordered, count = _sorted(scores)
        threshold = (ordered.cumsum(-1) - 1) / count
        last = (ordered > threshold).sum(-1, keepdim=True) - 1  # of the support
        within, count = _support(z, threshold.gather(-1, last))
        weights = (z - ((z * within).sum(-1, keepdim=True) - 1) / count).clamp(min=0.0)
        ctx.save_for_backward(weights)
        return weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _about_mean((ctx.saved_tensors[0] > 0).to(grad.dtype), grad)


class _Entmax15(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor) -> Tensor:
        z, ordered, count = _sorted(scores / 2)
        mean = ordered.cumsum(-1) / count
        spread = ordered.square().cumsum(-1) - count * mean.square()  # squares about the mean of the first so many
        threshold = mean - ((1 - spread) / count).clamp(min=0.0).sqrt()
        last = (threshold <= ordered).sum(-1, keepdim=True) - 1
        within, count = _support(z, threshold.gather(-1, last))
        mean = (z * within).sum(-1, keepdim=True) / count
        spread = ((z - mean) * within).square().sum(-1, keepdim=True)
        weights = (z - mean + ((1 - spread) / count).clamp(min=0.0).sqrt()).clamp(min=0.0).square()
        ctx.save_for_backward(weights)
        return weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _about_mean(ctx.saved_tensors[0].sqrt(), grad)


class Entmax(Normaliser):
    """`sparsemax` or `entmax15` of the keys seen; a query that sees none gets zeros."""

    by_head = False

    def forward(self, scores: Tensor, visible: Tensor | None) -> Tensor:
        if not scores.shape[-1]:
            return scores
        if visible is None:
            return self.weigh(scores)
        lowest = torch.finfo(scores.dtype).min / 4
        return self.weigh(scores.masked_fill(~visible, lowest)).masked_fill(~visible, 0.0)

    def weigh(self, scores: Tensor) -> Tensor:
        raise NotImplementedError


class Sparsemax(Entmax):
    """max(s - t, 0), t so that a row sums to 1 (Martins & Astudillo 2016)."""

    def weigh(self, scores: Tensor) -> Tensor:
        return sparsemax(scores)


class Entmax15(Entmax):
    """max(s / 2 - t, 0)^2, t so that a row sums to 1 (Peters et al. 2019)."""

    def weigh(self, scores: Tensor) -> Tensor:
        return entmax15(scores)


class SparsemaxSpec(NormaliserSpec, kind="sparsemax"):
    """The nearest point of the simplex: most weights are exactly zero."""

    def build(self, *, num_heads: int) -> Normaliser:
        return Sparsemax()


class Entmax15Spec(NormaliserSpec, kind="entmax15"):
    """Between softmax and sparsemax: zero for what scores low, smooth elsewhere."""

    def build(self, *, num_heads: int) -> Normaliser:
        return Entmax15()
