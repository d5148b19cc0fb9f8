"""The best span of a text, compared with every span there is."""

from __future__ import annotations

import math

import pytest
import torch
from tiny import TREE, ready

from attnlib.errors import LayoutError, UsageError
from attnlib.tasks import answer
from attnlib.tasks.windows import owners, windows

CONTEXT = "the whale rose; the sea ran"


def test_windows_cover_every_token_and_overlap() -> None:
    assert windows(5, 8, 3) == [range(5)]
    assert windows(10, 4, 1) == [range(4), range(3, 7), range(6, 10)]
    assert windows(11, 4, 2)[-1] == range(8, 11) and windows(8, 8, 2) == [range(8)]
    for tokens in range(1, 30):
        spans = windows(tokens, 5, 2)
        assert {t for span in spans for t in span} == set(range(tokens)) and all(len(span) <= 5 for span in spans)
    assert owners([range(4), range(3, 7)], 7) == [0, 0, 0, 0, 1, 1, 1]
    assert owners([range(5), range(2, 7)], 7) == [0, 0, 0, 0, 1, 1, 1]


def test_the_answer_is_the_best_of_all_spans_and_probabilities_add_up() -> None:
    model = ready(head="span")
    found = answer(model, "who?", CONTEXT, top_k=10**6, longest=6)
    ids = [257, *b"who?", 259, *CONTEXT.encode(), 259]
    with torch.no_grad():
        logits = model.model(torch.tensor([ids])).logits[0].double()
    start, end = logits[6:-1].unbind(-1)
    wished = {(i, j + 1): float(start[i] + end[j]) for i in range(len(CONTEXT)) for j in range(i, min(i + 6, len(CONTEXT)))}
    none = float(logits[0].sum())
    total = math.log(sum(math.exp(v) for v in (*wished.values(), none)))
    assert all(one.text == CONTEXT[one.start : one.end] == one.text.strip() for one in found.best)
    told = sorted(one.score for one in found.best)
    assert told == pytest.approx(sorted(math.exp(value - total) for value in wished.values()), rel=1e-3)
    assert found.none == pytest.approx(math.exp(none - total), rel=1e-3)
    assert sum(one.score for one in found.best) + found.none == pytest.approx(1)
    assert found.best[0] == answer(model, "who?", CONTEXT, longest=6).best[0]
    (first, last), value = max(wished.items(), key=lambda item: item[1])
    assert found.best[0].score == pytest.approx(math.exp(value - total), rel=1e-3)
    assert found.best[0].text == CONTEXT[first:last].strip()


def test_a_long_context_is_read_in_windows_and_offsets_are_the_texts() -> None:
    tree = {**TREE, "embedding": {"position": None, "types": 2}}
    model = ready(tree, head="span")
    context = CONTEXT * 3
    found = answer(model, "who?", context, window=30, stride=10, longest=8, top_k=5)
    spans = windows(len(context), 30 - 7, 10)
    owner = owners(spans, len(context))
    every: dict[tuple[int, int], float] = {}
    nones = []
    for number, span in enumerate(spans):
        ids = [257, *b"who?", 259, *context[span.start : span.stop].encode(), 259]
        with torch.no_grad():
            logits = model.model(torch.tensor([ids])).logits[0]
        nones.append(float(logits[0].sum()))
        for i in range(len(span)):
            for j in range(i, min(i + 8, len(span))):
                if owner[span.start + i] == number:
                    every[span.start + i, span.start + j + 1] = float(logits[6 + i, 0] + logits[6 + j, 1])
    best = max(every, key=lambda key: every[key])
    total = math.log(sum(math.exp(v) for v in (*every.values(), min(nones))))
    assert found.best[0].score == pytest.approx(math.exp(every[best] - total), rel=1e-3)
    assert found.best[0].end == best[1] and found.none == pytest.approx(math.exp(min(nones) - total), rel=1e-3)


def test_what_cannot_be_answered_is_refused() -> None:
    model = ready(head="span")
    with pytest.raises(UsageError, match="is masked_lm, answer needs head: span"):
        answer(ready(head="masked_lm"), "a", "b")
    with pytest.raises(LayoutError, match="question: has 70 tokens, a window has 60"):
        answer(model, "a" * 70, "b")
    with pytest.raises(UsageError, match="context: is empty"):
        answer(model, "a", "")
    with pytest.raises(UsageError, match="asks for 0 answers"):
        answer(model, "a", "b", top_k=0)
