"""Tokens to words, words to stretches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import TREE, ready

from attnlib.errors import UsageError
from attnlib.tasks import Ready, tag
from attnlib.tasks.windows import owners, windows

NAMES = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
HEAD = {"kind": "tag", "num_labels": 5, "labels": list(NAMES)}


def told(monkeypatch: pytest.MonkeyPatch, marks: str, sure: str | None = None) -> Ready:
    """A model whose logits for the bytes of a text are those of `marks` (a label's number each), `sure` strong."""
    model = ready(head=HEAD)

    def logits(ready: Ready, rows: Any) -> list[torch.Tensor]:
        table = torch.zeros(len(rows[0].ids), 5)
        for i, mark in enumerate(marks):
            table[1 + i, int(mark)] = float((sure or "5" * len(marks))[i])
        return [table]

    monkeypatch.setattr("attnlib.tasks.tagging.logits", logits)
    return model


def brief(found: Any) -> list[tuple[str, str, int, int]]:
    return [(one.text, one.label, one.start, one.end) for one in found]


def test_a_word_has_one_label_and_neighbours_of_one_name_are_one_stretch(monkeypatch: pytest.MonkeyPatch) -> None:
    #                          Ann Lee, Rome
    model = told(monkeypatch, "1000200003333")
    assert brief(tag(model, "Ann Lee, Rome")) == [("Ann Lee", "PER", 0, 7), ("Rome", "LOC", 9, 13)]
    assert brief(tag(model, "Ann Lee, Rome", outside=True))[1] == (",", "O", 7, 8)
    assert brief(tag(model, "Ann Lee, Rome", aggregation="token"))[:2] == [("A", "B-PER", 0, 1), ("L", "I-PER", 4, 5)]
    simple = tag(model, "Ann Lee, Rome", aggregation="simple")
    assert brief(simple)[:2] == [("A", "PER", 0, 1), ("L", "PER", 4, 5)] and len(simple) == 6


def test_the_beginning_of_a_name_ends_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    model = told(monkeypatch, "1011")
    assert brief(tag(model, "A BC")) == [("A", "PER", 0, 1), ("BC", "PER", 2, 4)]


@pytest.mark.parametrize(("how", "label"), [("first", "PER"), ("max", "LOC"), ("average", "O")])
def test_words_are_decided_by_their_first_their_surest_or_all_their_tokens(
    monkeypatch: pytest.MonkeyPatch, how: Any, label: str
) -> None:
    model = told(monkeypatch, "10003", "33339")
    [one] = tag(model, "Ahabs", aggregation=how, outside=True)
    assert one.label == label and one.text == "Ahabs"
    peaks = torch.zeros(5, 5)
    for i, (mark, sure) in enumerate(zip("10003", "33339")):
        peaks[i, int(mark)] = float(sure)
    chances = peaks.softmax(-1)
    wished = {"first": chances[0].max(), "max": chances.max(), "average": chances.mean(0).max()}[how]
    assert one.score == pytest.approx(float(wished))


def test_a_long_text_is_read_in_windows() -> None:
    free = ready({**TREE, "embedding": {"position": None}}, head=HEAD)
    bound = ready(head=HEAD)
    text = "Call me Ishmael. Some years ago, never mind how long precisely, having little or no money in my purse"
    found = tag(bound, text, aggregation="token", outside=True)
    spans = windows(len(text), 58, 29)
    owner = owners(spans, len(text))
    assert len(found) == len(text) and len(spans) == 3
    for number, span in enumerate(spans):
        with torch.no_grad():
            logits = bound.model(torch.tensor([[257, *text[span.start : span.stop].encode(), 259]])).logits[0, 1:-1]
        for at, i in enumerate(span):
            if owner[i] == number:
                assert found[i].label == NAMES[int(logits[at].argmax())]
                assert found[i].score == pytest.approx(float(logits[at].softmax(-1).max()), abs=1e-5)
    assert len(tag(free, text, aggregation="token", outside=True)) == len(text)
    assert tag(bound, "") == []


def test_what_is_no_tagger_is_refused() -> None:
    with pytest.raises(UsageError, match=r"model.head: is masked_lm, tag needs head: tag"):
        tag(ready(head="masked_lm"), "a")
    with pytest.raises(UsageError, match="aggregation: is 'best'"):
        tag(ready(head=HEAD), "a", aggregation="best")  # type: ignore[arg-type]
