"""Masking and span corruption do what their papers say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnlib.errors import DataError
from attnlib.text import Bytes
from attnlib.train.corruption import IGNORE, corrupt_spans, mask_tokens, raw_length, span_counts, word_numbers

MASK, SENTINELS = 99, tuple(range(200, 240))


def hide(ids: np.ndarray, seed: int = 0, **more: object) -> tuple[np.ndarray, np.ndarray]:
    how = {"rate": 0.15, "mask_id": MASK, "choices": np.arange(50), "candidates": ids < 90} | more
    return mask_tokens(ids, np.random.default_rng(seed), **how)


def test_of_the_chosen_tokens_80_percent_are_masked_10_swapped_10_kept() -> None:
    ids = np.full(40_000, 60)  # 60 is no choice, so a swap always shows
    inputs, targets = hide(ids)
    chosen = targets != IGNORE
    assert chosen.sum() == 6000 and (targets[chosen] == 60).all() and (inputs[~chosen] == 60).all()
    shares = [(inputs[chosen] == MASK).mean(), (inputs[chosen] < 50).mean(), (inputs[chosen] == 60).mean()]
    spread = 4 * (0.25 / 6000) ** 0.5
    assert np.allclose(shares, [0.8, 0.1, 0.1], atol=spread)
    assert len(np.unique(inputs[chosen & (inputs < 50)])) == 50


def test_special_tokens_are_never_chosen() -> None:
    ids = np.array([95, 3, 4, 5, 6, 96] * 10)
    for seed in range(20):
        inputs, targets = hide(ids, seed)
        assert (targets[ids > 90] == IGNORE).all() and (inputs[ids > 90] == ids[ids > 90]).all()
    inputs, targets = hide(np.array([95, 96]))
    assert (targets == IGNORE).all()


def test_at_least_one_token_is_chosen() -> None:
    assert (hide(np.array([1, 2]))[1] != IGNORE).sum() == 1


def test_whole_words_are_chosen_together() -> None:
    made = Bytes().build()
    ids = made.pieces("the unbelievable whale-fish swam to Nantucket's harbour " * 4)
    words = word_numbers(ids, made.edges)
    shares = []
    for seed in range(40):
        _, targets = hide(ids, seed, words=words, candidates=np.ones(len(ids), dtype=bool))
        chosen = targets != IGNORE
        for word in np.unique(words):
            assert chosen[words == word].all() or not chosen[words == word].any()
        shares.append(chosen.mean())
    assert 0.15 <= np.mean(shares) < 0.2


def restored(source: list[int], target: list[int]) -> list[int]:
    spans: dict[int, list[int]] = {}
    mark = -1
    for i in target:
        if i in SENTINELS:
            mark = i
            spans[mark] = []
        else:
            spans[mark].append(i)
    return [j for i in source for j in (spans[i] if i in SENTINELS else [i])]


@given(st.integers(2, 150), st.floats(0.05, 0.6), st.floats(1, 8), st.integers(0, 9))
def test_source_and_target_restore_the_text(n: int, density: float, mean: float, seed: int) -> None:
    ids = np.arange(n)
    removed, spans = span_counts(n, density, mean)
    if spans > len(SENTINELS):
        return
    source, target = corrupt_spans(ids, np.random.default_rng(seed), density=density, mean_span=mean, sentinels=SENTINELS)
    assert restored(source.tolist(), target.tolist()) == ids.tolist()
    assert len(source) == n - removed + spans and len(target) == removed + spans
    assert source[np.isin(source, SENTINELS)].tolist() == list(SENTINELS[:spans])


def test_density_and_span_length_are_as_asked() -> None:
    removed, spans = span_counts(400, 0.15, 3.0)
    assert (removed, spans) == (60, 20)


def test_too_few_sentinels_and_too_short_texts_are_refused() -> None:
    with pytest.raises(DataError, match=r"tokenizer.sentinels: are 2, 100 tokens need 5"):
        corrupt_spans(np.arange(100), np.random.default_rng(0), density=0.15, mean_span=3.0, sentinels=(1, 2))
    with pytest.raises(DataError, match="needs at least 2"):
        span_counts(1, 0.15, 3.0)


@given(st.integers(3, 400))
def test_the_raw_length_fills_the_source_and_no_more(length: int) -> None:
    raw = raw_length(length, 0.15, 3.0)

    def source(n: int) -> int:
        removed, spans = span_counts(n, 0.15, 3.0)
        return n - removed + spans + 1

    assert source(raw) <= length < source(raw + 1)
