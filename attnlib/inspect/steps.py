"""What a model gave for each next token while a text was written: the chance of the token that came, and of others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attnlib.inspect.maps import visible
from attnlib.inspect.packing import rounded

OPTIONS = 5
AT_ONCE = 64  # columns whose logits are made probabilities together


@dataclass(frozen=True)
class Steps:
    """Column `first + n` of `tokens` was chosen with log-probability `logprobs[n]` among `options[n]` = (token, chance).

    written: the first column that the model wrote itself, the columns before it were given; None = all were given.
    """

    tokens: tuple[str, ...]
    first: int
    written: int | None
    logprobs: tuple[float, ...]
    options: tuple[tuple[tuple[str, float], ...], ...]

    def tree(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "first": self.first,
            "written": self.written,
            "chances": rounded([math.exp(value) for value in self.logprobs], 4),
            "options": [[[visible(token), rounded(chance, 3)] for token, chance in found] for found in self.options],
        }


def steps_of(
    logits: Tensor, ids: Sequence[int], tokens: Sequence[str], first: int, names: Any, written: int | None = None
) -> Steps:
    """The steps of a text, of logits [n, V] read at the columns before `first`, `first + 1`, ...; names: ids -> tokens."""
    chances, best = [], []
    for at in range(0, len(logits), AT_ONCE):
        logprobs = logits[at : at + AT_ONCE].float().log_softmax(-1).cpu()
        came = torch.tensor(ids[first + at : first + at + len(logprobs)])
        chances += logprobs.gather(1, came[:, None])[:, 0].tolist()
        found = logprobs.topk(min(OPTIONS, logprobs.shape[-1]), -1)
        best += list(zip(found.indices.tolist(), found.values.exp().tolist(), strict=True))
    options = tuple(tuple(zip(names(places), values, strict=True)) for places, values in best)
    return Steps(tuple(tokens), first, written, tuple(chances), options)
