"""Attention rollout: attention weights multiplied through the layers."""

from __future__ import annotations

import torch
from torch import Tensor

from attnlib.inspect.explanations.layers import Step, carried, lengths, told, weighted, without_weights
from attnlib.inspect.explanations.method import Method, Scores
from attnlib.inspect.question import Question


def half_residual(question: Question) -> list[Step]:
    """0.5 A + 0.5 I of every layer, A the mean of the heads; a cross-attention leaves half of the stream and reads half."""
    steps = []
    for path, side, weights in weighted(question):
        cross = path.endswith(".cross")
        steps.append(Step(side, cross, _with_residual(weights.mean(0), cross), 0.5))
    return steps


def _with_residual(weights: Tensor, cross: bool) -> Tensor:
    return 0.5 * weights if cross else 0.5 * (weights + torch.eye(len(weights), dtype=weights.dtype))


class Rollout(Method, name="rollout", signed=False):
    """The product over layers of 0.5 A + 0.5 I, A the mean over heads (Abnar & Zuidema 2020, arXiv:2005.00928).

    Where the encoder feeds the decoder, a cross-attention takes half of its stream from the encoder's rolled-out columns:
    the shares of source and text together add up to one. It knows nothing of the target but where it is read.
    """

    def refuses(self, question: Question) -> str | None:
        return without_weights(question)

    def __call__(self, question: Question) -> Scores:
        return Scores(told(question, carried(half_residual(question), lengths(question))))
