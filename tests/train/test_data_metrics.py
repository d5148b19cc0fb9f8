"""Metrics against figures worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from attnlib.train.metrics import exact_match, generated_match, label_scores, language_scores


def test_perplexity_and_bits_of_a_uniform_guess() -> None:
    labels = torch.tensor([1, 2, 3, 4])
    scores = language_scores(4 * math.log(8), torch.tensor([1, 2, 0, 0]), labels, tokens_per_character=0.5)
    assert scores == pytest.approx({"loss": math.log(8), "perplexity": 8, "accuracy": 0.5, "bits_per_character": 1.5})


def test_f1_by_hand() -> None:
    scores = label_scores([0, 0, 1, 1, 1], [0, 1, 1, 1, 2], classes=4)  # class 3 occurs nowhere and does not count
    assert scores["accuracy"] == scores["micro_f1"] == pytest.approx(0.6)
    assert scores["macro_f1"] == pytest.approx((2 / 3 + 2 * 2 / (4 + 1 + 1) + 0) / 3)


def test_exact_match_ignores_blanks_at_the_ends_only() -> None:
    assert exact_match(["a b ", "a  b", ""], ["a b", "a b", ""]) == pytest.approx(2 / 3)
    assert generated_match(["a", "b", "c"], ["A", "B", "x"], lambda s: [t.upper() for t in s], 2) == pytest.approx(2 / 3)


def test_empty_inputs_give_figures_not_errors() -> None:
    assert language_scores(0.0, torch.empty(0), torch.empty(0))["perplexity"] == 1.0
    assert label_scores([], [], 2)["accuracy"] == 0.0 and exact_match([], []) == 0.0
