"""Saliency: how steep the target is in each token's embedding."""

from __future__ import annotations

from attnlib.inspect.explanations.method import Method, Scores, stacked
from attnlib.inspect.question import Question, gradients


class Saliency(Method, name="saliency", signed=False):
    """|d value / d e_t|, the length of the gradient at each token's embedding (Simonyan et al. 2013; Li et al. 2016).

    It tells how much a small change would do, not how much the token did; it has no sign.
    """

    def __call__(self, question: Question) -> Scores:
        parts = []
        for _, some in question.each():
            found, _ = gradients(some, some.inputs(len(some.targets)))
            parts.append({name: grad.double().norm(dim=-1) for name, grad in found.items()})
        return Scores(stacked(question, parts))
