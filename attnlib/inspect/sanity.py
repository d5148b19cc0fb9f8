"""Sanity: an explanation must change when the weights that it explains are made worthless (Adebayo et al. 2018)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from attnlib.inspect.explanations import Method, find_method, why
from attnlib.inspect.question import Question
from attnlib.inspect.sites import stacks


@dataclass(frozen=True)
class Sanity:
    """Rank correlation (Spearman) of a method's scores with those after shuffling the weights of 0, 1, 2, .. top layers.

    An explanation that depends on what was learned falls towards 0; one that stays near 1 shows the input, not the model.
    """

    method: str
    correlations: tuple[float, ...]


def sanity(questions: Sequence[Question], methods: Sequence[str | Method], *, seed: int = 0) -> list[Sanity]:
    """For each method the mean correlation over questions and targets, layers shuffled one after another from the top.

    Layers of an encoder-decoder go decoder first. The targets stay those of the model as it is.
    """
    chosen = [find_method(method) for method in methods]
    plain = {method.name: [why(question, method) for question in questions] for method in chosen}
    found: dict[str, list[float]] = {method.name: [1.0] for method in chosen}
    for model in shuffled(questions[0].model, seed):
        for method in chosen:
            correlations = []
            for question, before in zip(questions, plain[method.name], strict=True):
                after = why(replace(question, model=model), method)
                for number in range(len(question.targets)):
                    rows = [
                        np.concatenate([e.scores[s.name][number, list(s.own)] for s in e.sides]) for e in (before, after)
                    ]
                    correlations.append(spearman(rows[0], rows[1]))
            found[method.name].append(float(np.mean(correlations)))
    return [Sanity(name, tuple(values)) for name, values in found.items()]


def shuffled(model: Any, seed: int = 0) -> Iterator[Any]:
    """Copies of a model, one more layer from the top with each of its parameters' entries in a random order."""
    import copy

    made = torch.Generator().manual_seed(seed)
    worse = copy.deepcopy(model)
    blocks: list[nn.Module] = [block for stack in stacks(worse).values() for block in stack.blocks]
    for block in reversed(blocks):
        with torch.no_grad():
            for parameter in block.parameters():
                order = torch.randperm(parameter.numel(), generator=made).to(parameter.device)
                parameter.copy_(parameter.flatten()[order].view_as(parameter))
        yield worse


def spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Correlation of ranks, ties sharing theirs; 0 where one side is all ties."""
    ranks = [_ranks(x) - (len(x) - 1) / 2 for x in (a, b)]
    lengths = [float(np.sqrt((r * r).sum())) for r in ranks]
    return float(ranks[0] @ ranks[1] / (lengths[0] * lengths[1])) if min(lengths) > 0 else 0.0


def _ranks(x: NDArray[np.float64]) -> NDArray[np.float64]:
    _, group, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((last - counts + last - 1) / 2)[group]
