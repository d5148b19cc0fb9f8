"""Gradient x attention: weights that helped the target, carried through the layers."""

from __future__ import annotations

import torch
from torch import Tensor

from attnlib.inspect.explanations.layers import Step, at_weights, carried, lengths, not_softmax, watched
from attnlib.inspect.explanations.method import Method, Scores, stacked
from attnlib.inspect.question import Question


class GradientAttention(Method, name="gradient_attention", signed=False):
    """R = (I + mean_h relu(A * d value / d A)) R, layer by layer, less the I it begins with.

    Chefer et al. 2021 (arXiv:2103.15679).
    A cross-attention adds C R_source to what the text holds of the source. The gradient at the weights is dO V^T at the
    fast backend's output, so no map is built in the forward. Differs from the paper in the cross step, where that
    normalises both relevances and transposes the text's: here the steps follow the stream.
    """

    def refuses(self, question: Question) -> str | None:
        return not_softmax(question)

    def __call__(self, question: Question) -> Scores:
        parts = []
        for _, some in question.each():
            steps = _steps(some)
            shares, rows = some.shares(), range(len(some.targets))
            carry = [carried([step[row] for step in steps], lengths(some)) for row in rows]
            found = {s.name: torch.stack([shares[n] @ carry[n][s.name] for n in rows]) for s in some.sides}
            parts.append(found | {"text": found["text"] - shares})
        return Scores(stacked(question, parts))


def _steps(some: Question) -> list[list[Step]]:
    """For each attention a step a target: row n of the batch is for target n."""
    with torch.enable_grad():
        inputs = some.inputs(len(some.targets))
        for rows in inputs.values():
            rows.embeds.requires_grad_()
        seen, logits = watched(some, inputs, grad=True)
        values = some.values(logits).diagonal()
        grads = torch.autograd.grad(values.sum(), [one.out for one in seen], allow_unused=True, materialize_grads=True)
    steps = []
    for one, grad in zip(seen, grads, strict=True):
        helped = (one.weights() * at_weights(grad, one.v.detach())).clamp(min=0).mean(1).cpu()  # [N, Q, K]
        steps.append([Step(one.side, one.cross, _kept(matrix, one.cross)) for matrix in helped])
    return steps


def _kept(matrix: Tensor, cross: bool) -> Tensor:
    return matrix if cross else matrix + torch.eye(len(matrix), dtype=matrix.dtype)
