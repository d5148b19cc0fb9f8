"""Packing keeps every token once, and no document sees another."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnlib.errors import DataError
from attnlib.train.packing import Windows, pack, pieces


@given(st.lists(st.integers(1, 20), max_size=60))
def test_rows_hold_every_sequence_once_and_are_never_over_full(lengths: list[int]) -> None:
    rows = pack(lengths, 20)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= 20 for row in rows)
    assert len(rows) <= 1 + 2 * sum(lengths) / 20  # any two rows together hold more than one capacity


def test_a_sequence_longer_than_a_row_is_refused() -> None:
    with pytest.raises(DataError, match="sequence 1 has 9 tokens, must have 1 to 8"):
        pack([3, 9], 8)


@given(st.integers(2, 90), st.integers(2, 12), st.sampled_from([0, 1]))
def test_pieces_cover_the_document(n: int, length: int, overlap: int) -> None:
    parts = pieces(np.arange(n), length, overlap=overlap)
    targets = np.concatenate([part[overlap:] for part in parts])
    assert targets.tolist() == list(range(overlap, n))
    assert all(len(part) <= length for part in parts)


@given(st.integers(5, 80), st.integers(0, 10))
def test_windows_are_as_many_in_every_epoch_and_stay_in_the_text(n: int, shift: int) -> None:
    windows = Windows(np.arange(n), 5, overlap=1)
    cut = [windows.window(i, shift) for i in range(len(windows))]
    assert all(len(w) == 5 for w in cut)
    assert all(a[-1] == b[0] for a, b in pairwise(cut))
    assert n - len(windows) * 4 < 4 + 4 + 1  # at most a shift and a part of a window are left out


def test_a_text_shorter_than_one_window_is_refused() -> None:
    with pytest.raises(DataError, match=r"book\.txt:1: holds 3 tokens, must hold at least one window of 5"):
        Windows(np.arange(3), 5, origin="book.txt:1")
