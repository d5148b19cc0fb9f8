"""The order of training examples, computed from (seed, step) and kept nowhere: step k of a resumed run is step k."""

from __future__ import annotations

from typing import Any

import numpy as np

Indices = np.ndarray[Any, np.dtype[np.int64]]
_Words = np.ndarray[Any, np.dtype[np.uint64]]

_ROUNDS = 6


def batch_indices(
    seed: int, step: int, n: int, batch_size: int, *, rank: int = 0, world_size: int = 1
) -> tuple[Indices, Indices]:
    """Epochs and example indices of one batch: two [batch_size] arrays, a pure function of its arguments.

    Each epoch visits every one of the `n` examples once, in an order of its own. Batches run on over the end of an
    epoch, so none is short and no example is dropped. With `world_size` ranks, the ranks' batches of one step are
    the consecutive parts of one global batch of batch_size * world_size.
    """
    first = (step * world_size + rank) * batch_size
    places = np.arange(first, first + batch_size, dtype=np.int64)
    epochs, places = places // n, places % n
    indices = np.empty_like(places)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        indices[here] = permuted(places[here], n, (seed, int(epoch)))
    return epochs, indices


def permuted(places: Indices, n: int, key: tuple[int, ...]) -> Indices:
    """Where a pseudo-random permutation of 0..n-1 sends each place, without making the permutation: O(len(places)).

    A Feistel network over the next even number of bits is a bijection of 0..4^h-1; what falls on or above n walks on
    until it falls below ("cycle walking", Black and Rogaway, 2002), which is a bijection of 0..n-1.
    """
    half = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))
    low = (np.uint64(1) << half) - np.uint64(1)
    keys = np.random.SeedSequence([part & 0xFFFFFFFFFFFFFFFF for part in key]).generate_state(_ROUNDS, np.uint64)
    out = places.astype(np.uint64)
    todo = np.ones(len(out), dtype=bool)
    while todo.any():
        left, right = out[todo] >> half, out[todo] & low
        for round_key in keys:
            left, right = right, left ^ (_mixed(right ^ round_key) & low)
        out[todo] = (left << half) | right
        todo = out >= np.uint64(n)
    return out.astype(np.int64)


def _mixed(x: _Words) -> _Words:
    """A 64-bit finaliser: every bit of the result depends on every bit of x."""
    x = (x ^ (x >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    x = (x ^ (x >> np.uint64(29))) * np.uint64(0xD6E8FEB86659FD93)
    return x ^ (x >> np.uint64(32))


def example_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The randomness of one example in one epoch (its masked positions, its spans), whichever batch it falls into."""
    return np.random.default_rng((seed & 0xFFFFFFFFFFFFFFFF, epoch, index))
