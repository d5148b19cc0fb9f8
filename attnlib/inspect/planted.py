"""Texts whose evidence is known: what a method of explanation finds in them can be counted.

A text is a row of letters. Each label has three letters of its own; the label of a text is the one most of whose letters
stand in it, the others are filler that says nothing. So the true tokens are known, and some tokens speak against.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attnlib.inspect.explanations.result import Explanation

LABELS = "ABCD"
SIGNS = {"A": "abc", "B": "def", "C": "ghi", "D": "jkl"}
FILLER = "mnopqrstuvwxyz"
LENGTH, FOR, AGAINST = 24, 3, 2  # letters of a text, those of its label, those of another


@dataclass(frozen=True)
class Planted:
    """A text, its label, and which of its characters are evidence for the label and for another."""

    text: str
    label: str
    evidence: frozenset[int]
    against: frozenset[int]


def plant(count: int, seed: int) -> list[Planted]:
    """Texts drawn at random; the same for the same seed."""
    draw = random.Random(seed)
    texts = []
    for _ in range(count):
        label, other = draw.sample(LABELS, 2)
        places = draw.sample(range(LENGTH), FOR + AGAINST)
        letters = draw.choices(FILLER, k=LENGTH)
        for number, place in enumerate(places):
            letters[place] = draw.choice(SIGNS[label if number < FOR else other])
        texts.append(Planted("".join(letters), label, frozenset(places[:FOR]), frozenset(places[FOR:])))
    return texts


def precision(found: Explanation, planted: Planted, *, target: int = 0) -> float:
    """The part of the `FOR` best-scored letters that are evidence for the label; a tie counts as its chance.

    Each letter's score is that of its token, on whichever side the text was read.
    """
    scores = letter_scores(found, planted.text, target)
    cut = np.sort(scores)[-FOR]
    sure, tied = np.flatnonzero(scores > cut), np.flatnonzero(scores == cut)
    right = sum(int(place) in planted.evidence for place in sure)
    right_tied = sum(int(place) in planted.evidence for place in tied)
    return float((right + right_tied * (FOR - len(sure)) / len(tied)) / FOR)


def letter_scores(found: Explanation, text: str, target: int = 0) -> NDArray[np.float64]:
    """[letters] the scores of the tokens that spell the text's letters, one each."""
    side = next(side for side in found.sides if side.text.startswith(text))
    scores = np.zeros(len(text))
    for column, span in enumerate(side.spans):
        if span is not None and span[0] < len(text):
            scores[span[0]] = found.scores[side.name][target, column]
    return scores


def base_rate() -> float:
    """What choosing letters blindly gets."""
    return FOR / LENGTH


def chance_spread(texts: int) -> float:
    """Standard deviation of the mean precision of blind choices over so many texts (hypergeometric)."""
    rate = base_rate()
    return float(np.sqrt(rate * (1 - rate) * (LENGTH - FOR) / (LENGTH - 1) / FOR / texts))


def verdict(precisions: Mapping[str, float], found: float, spread: float) -> str:
    """What is to be held of a method, by its precision in each stack."""
    blind = [kind for kind, value in precisions.items() if value <= base_rate() + 4 * spread]
    short = [kind for kind, value in precisions.items() if value < found and kind not in blind]
    if len(blind) == len(precisions):
        return "no better than chance"
    words = [f"no better than chance in {', '.join(blind)}"] if blind else []
    if short:
        words.append("misses some" if len(short) == len(precisions) else f"misses some in {', '.join(short)}")
    return "; ".join(words) or "finds it"


def rows_of(planted: Sequence[Planted], kind: str) -> list[dict[str, str]]:
    """The rows that a stack of a kind is trained on: text and label, or source and target."""
    names = ("source", "target") if kind == "encoder_decoder" else ("text", "label")
    return [dict(zip(names, (one.text, one.label), strict=True)) for one in planted]
