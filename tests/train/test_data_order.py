"""The order of examples is a pure function of seed and step."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnlib.train.order import batch_indices, example_rng, permuted


@given(st.integers(1, 700), st.integers(-3, 2**63), st.integers(0, 50))
def test_every_epoch_visits_each_example_once(n: int, seed: int, epoch: int) -> None:
    assert sorted(permuted(np.arange(n), n, (seed, epoch)).tolist()) == list(range(n))


def test_a_batch_does_not_depend_on_the_batches_before_it() -> None:
    run = [batch_indices(5, step, 37, 8)[1].tolist() for step in range(20)]
    assert batch_indices(5, 13, 37, 8)[1].tolist() == run[13]
    joined = [index for batch in run for index in batch]
    assert sorted(joined[:37]) == sorted(joined[37:74]) == list(range(37))
    assert joined[:37] != joined[37:74]


def test_seeds_and_epochs_give_other_orders() -> None:
    orders = {tuple(permuted(np.arange(30), 30, key).tolist()) for key in [(0, 0), (0, 1), (1, 0), (1, 1)]}
    assert len(orders) == 4


def test_epochs_are_named_where_a_batch_crosses_their_border() -> None:
    epochs, indices = batch_indices(0, 1, 5, 4)
    assert epochs.tolist() == [0, 1, 1, 1] and len(set(indices[1:].tolist())) == 3


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_share_one_global_batch(world_size: int) -> None:
    whole = batch_indices(3, 6, 101, 8)[1].tolist()
    parts = [batch_indices(3, 6, 101, 8 // world_size, rank=r, world_size=world_size)[1] for r in range(world_size)]
    assert np.concatenate(parts).tolist() == whole


def test_orders_look_uniform() -> None:
    n, seeds = 8, 4000
    counts = np.zeros((n, n))
    for seed in range(seeds):
        counts[np.arange(n), permuted(np.arange(n), n, (seed, 0))] += 1
    chi = ((counts - seeds / n) ** 2 / (seeds / n)).sum()
    assert chi < 49 + 5 * (2 * 49) ** 0.5  # mean and deviation of chi-square with (n-1)^2 degrees of freedom


def test_an_example_has_its_own_randomness_in_each_epoch() -> None:
    draws = {
        float(example_rng(*key).random())
        for key in [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 2**32, 0), (2**32, 0, 0)]
    }
    assert len(draws) == 6
    assert example_rng(1, 2, 3).random() == example_rng(1, 2, 3).random()
