"""Figures of heads: a few numbers that say what kind each head is, from its map or from a summary of it.

    entropy    -sum w ln w of a query, in nats: 0 = one token, ln K = all alike
    distance   sum w |q - k| of a query, in tokens
    first      mass on the first token of the text (an attention sink, where it is large)
    beside     mass on the tokens right beside the query: where the mask is causal, on the previous one
    itself     mass on the query's own token

Each the mean over queries; where queries and keys stand in different texts, only entropy and first are there.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from attnlib.inspect.maps import Array, AttentionMap
from attnlib.inspect.summaries import Summaries, Summary

Figures = Mapping[str, Array]  # name -> [H]

ASKED = Summaries(windows=(0, 1), sinks=1)  # what a summary must hold for `figures_of_summary`


def figures_of_map(one: AttentionMap) -> Figures:
    """Of a map, whose queries are all tokens of a text: [H] each."""
    own = one.name.rpartition(".")[2] != "cross" and one.query_tokens == one.key_tokens
    found: dict[str, list[float]] = {}
    for head in one.weights:  # one at a time: the map is wide
        for name, value in _head(head.astype(np.float64), own).items():
            found.setdefault(name, []).append(value)
    return {name: np.array(values) for name, values in found.items()}


def _head(w: Array, own: bool) -> dict[str, float]:
    logs = np.log(np.where(w > 0, w, 1.0))
    found = {"entropy": float(-(w * logs).sum(1).mean()), "first": float(w[:, 0].mean())}
    if own:
        far = np.abs(np.arange(len(w))[:, None] - np.arange(len(w))[None, :])
        given = np.maximum(w.sum(1), 1e-30)
        found |= {
            "distance": float(((w * far).sum(1) / given).mean()),
            "beside": float((w * (far == 1)).sum(1).mean()),
            "itself": float(np.diagonal(w).mean()),
        }
    return found


def figures_of_summary(one: Summary) -> Figures:
    """Of a summary made as `ASKED` says."""
    found = {"entropy": one.entropy.mean(1).numpy(), "first": one.sink.mean(1).numpy()}
    if one.distance is not None and one.outside is not None:
        itself, near = (one.outside[:, one.windows.index(n)].numpy() for n in (0, 1))
        given = one.given.mean(1).numpy()
        found |= {"distance": one.distance.mean(1).numpy(), "beside": itself - near, "itself": given - itself}
    return found
