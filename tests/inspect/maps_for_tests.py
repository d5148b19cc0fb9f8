"""Attention maps made up with the structure that real ones have: local, sink, content and alignment heads."""

from __future__ import annotations

import numpy as np

from attnlib.inspect.maps import Array, AttentionMap


def _words(text: str) -> list[str]:
    return text.split()


STORY = _words("Once upon a time , a little fox met an old owl by the river . The owl asked the fox why it ran so fast .")
STRANGE = [
    "</script>",
    "<b>x</b>",
    "{{data}}",
    " the",
    "\n",
    "\t",
    "",
    "\u202eevil",
    "שלום",
    "مرحبا",
    "👩‍👩‍👧",
    "a&b",
    "\x00",
    "\u0301",
    '"q"',
    "$x_1$",
]


def some_weights(heads: int, queries: int, keys: int, *, causal: bool = False, seed: int = 0) -> Array:
    """Softmax of scores with a kind of head after another, [H, Q, K] float32; `causal` hides the keys to come."""
    random = np.random.default_rng(seed)
    q, k = np.arange(queries)[:, None], np.arange(keys)[None, :]
    at = q * keys / queries
    kinds = [-0.8 * np.abs(k - at), 3.5 * (k == 0), -2.5 * np.abs(k - at + 1), np.zeros((queries, keys))]
    scores = np.stack(
        [
            kinds[(h + seed) % 4] + random.normal(size=(1, keys)) * (h % 3) + random.normal(size=(queries, keys))
            for h in range(heads)
        ]
    )
    if causal:
        scores = np.where(k <= q, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return (weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32)


def some_maps(
    layers: int = 2, heads: int = 4, tokens: list[str] | None = None, *, stack: str = "decoder"
) -> list[AttentionMap]:
    """Self-attention of a stack over one text."""
    text = STORY if tokens is None else tokens
    return [
        AttentionMap(
            f"{stack}.{i}.self",
            some_weights(heads, len(text), len(text), causal=stack == "decoder", seed=i),
            text,
            text,
        )
        for i in range(layers)
    ]


def three_kinds(layers: int = 2, heads: int = 4) -> list[AttentionMap]:
    """Encoder, decoder and cross-attention of a small encoder-decoder."""
    source, target = (
        _words("the quick foxes that swim have jumped ."),
        _words("have the quick foxes that swim jumped ?"),
    )
    cross = [
        AttentionMap(f"decoder.{i}.cross", some_weights(heads, len(target), len(source), seed=i + 7), target, source)
        for i in range(layers)
    ]
    return [*some_maps(layers, heads, source, stack="encoder"), *some_maps(layers, heads, target), *cross]
