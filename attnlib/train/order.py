"""The order of training examples, computed from (seed, step) and kept nowhere: step k of a resumed run is step k."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

Indices = np.ndarray[Any, np.dtype[np.int64]]
_Words = np.ndarray[Any, np.dtype[np.uint64]]

_ROUNDS = 6
_ORDER, _EXAMPLE, _SHIFT = 1, 2, 3  # what randomness is for


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

    A number below a * b is a pair (x, y) in Z_a x Z_b; adding to x a hash of y, then to y a hash of x, and so on (a
    Feistel network), is a bijection. With a * b just above n, the few results that fall on or above n go through
    again until they fall below ("cycle walking", Black and Rogaway, 2002), which is a bijection of 0..n-1.
    """
    a = math.isqrt(n - 1) + 1
    sizes = np.uint64(a), np.uint64(-(-n // a))
    keys = _seeded(_ORDER, *key).generate_state(_ROUNDS, np.uint64)
    out = places.astype(np.uint64)
    todo = np.ones(len(out), dtype=bool)
    while todo.any():
        sides = list(divmod(out[todo], sizes[1]))
        for i, round_key in enumerate(keys):
            turn, other = i % 2, 1 - i % 2
            sides[turn] = (sides[turn] + _mixed(sides[other] ^ round_key) % sizes[turn]) % sizes[turn]
        out[todo] = sides[0] * sizes[1] + sides[1]
        todo = out >= np.uint64(n)
    return out.astype(np.int64)


def _mixed(x: _Words) -> _Words:
    """A 64-bit finaliser: every bit of the result depends on every bit of x."""
    x = (x ^ (x >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    x = (x ^ (x >> np.uint64(29))) * np.uint64(0xD6E8FEB86659FD93)
    return x ^ (x >> np.uint64(32))


def example_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The randomness of one example in one epoch (its masked positions, its spans), whichever batch it falls into."""
    return np.random.Generator(np.random.PCG64(_seeded(_EXAMPLE, seed, epoch, index)))


@lru_cache(maxsize=16)  # the same for every example of an epoch
def epoch_shift(seed: int, epoch: int, shifts: int) -> int:
    """By how much the windows of an epoch are shifted: 0 .. shifts-1."""
    return int(np.random.Generator(np.random.PCG64(_seeded(_SHIFT, seed, epoch))).integers(shifts))


def _seeded(purpose: int, *parts: int) -> np.random.SeedSequence:
    """Randomness of its own for each purpose and parts: every part takes two 32-bit words.

    Left to itself SeedSequence writes small numbers in one word and large ones in two, and (2**32, 0) is (0, 1).
    """
    words = [purpose]
    for part in parts:
        words += [part & 0xFFFFFFFF, part >> 32 & 0xFFFFFFFF]
    return np.random.SeedSequence(words)
