"""Input x gradient: the first-order share of each token's embedding."""

from __future__ import annotations

from attnlib.inspect.explanations.method import Method, Scores, stacked
from attnlib.inspect.question import Question, gradients


class InputXGradient(Method, name="input_x_gradient"):
    """e_t . d value / d e_t (Shrikumar et al. 2016): what the embedding would add if all were linear."""

    def __call__(self, question: Question) -> Scores:
        parts = []
        for _, some in question.each():
            inputs = some.inputs(len(some.targets))
            found, _ = gradients(some, inputs)
            parts.append({name: (inputs[name].embeds.double() * grad.double()).sum(-1) for name, grad in found.items()})
        return Scores(stacked(question, parts))
