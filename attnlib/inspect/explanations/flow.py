"""Attention flow: the most that could pass from each input token to the output, attention weights being pipes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from attnlib.inspect.explanations.layers import Step, lengths, without_weights
from attnlib.inspect.explanations.maxflow import TINY, Network
from attnlib.inspect.explanations.method import Method, Scores
from attnlib.inspect.explanations.rollout import half_residual
from attnlib.inspect.question import Question


class Flow(Method, name="flow", signed=False):
    """The maximum flow from each input token to where the target is read (Abnar & Zuidema 2020, arXiv:2005.00928).

    Capacities are 0.5 A + 0.5 I of every layer, as in rollout; a target read from several columns draws on each for its
    share. One flow a token and target: for short texts, at most `most` tokens in all.
    """

    def __init__(self, *, most: int = 128) -> None:
        self.most = most

    def refuses(self, question: Question) -> str | None:
        tokens = sum(len(side) for side in question.sides)
        if tokens > self.most:
            return f"the text has {tokens} tokens, and flow is found for at most {self.most}"
        return without_weights(question)

    def __call__(self, question: Question) -> Scores:
        network, inputs, outputs = _network(half_residual(question), lengths(question))
        found = {s.name: torch.zeros(len(question.targets), len(s), dtype=torch.float64) for s in question.sides}
        for number, share in enumerate(question.shares()):
            source = network.node()
            for column in share.nonzero()[:, 0].tolist():
                network.add(source, outputs[column], float(share[column]))
            for side in question.sides:
                for column, node in enumerate(inputs[side.name]):
                    found[side.name][number, column] = network.greatest(source, node)
        return Scores(found)


def _network(steps: Sequence[Step], tokens: dict[str, int]) -> tuple[Network, dict[str, list[int]], list[int]]:
    """The network, the nodes of each side's input tokens, and those of the writing side's output columns."""
    network = Network()
    inputs = {side: [network.node() for _ in range(count)] for side, count in tokens.items()}
    now = dict(inputs)  # the newest nodes of each side's stream
    for step in steps:
        new = [network.node() for _ in now[step.side]]
        below = now["source"] if step.cross else now[step.side]
        for q, row in enumerate(step.matrix.tolist()):
            for k, capacity in enumerate(row):
                if capacity > TINY:
                    network.add(new[q], below[k], capacity)
            if step.cross:
                network.add(new[q], now["text"][q], float(step.stays))
        now[step.side] = new
    return network, inputs, now["text"]
