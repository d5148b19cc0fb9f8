"""Extractive question answering: the stretch of a text that answers a question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from attnlib.errors import LayoutError, UsageError
from attnlib.models.heads import SpanHeadSpec
from attnlib.tasks.ready import Ready
from attnlib.tasks.rows import logits
from attnlib.tasks.windows import owners, trimmed, windows
from attnlib.text.tokenizer import Framed

WINDOW, STRIDE, LONGEST = 384, 128, 30  # tokens, as the models of Devlin et al. (2018) were trained on SQuAD


class Answer(NamedTuple):
    """context[start:end], and its probability."""

    text: str
    start: int
    end: int
    score: float


@dataclass(frozen=True)
class Answers:
    """The best answers first, and the probability that the text holds none."""

    best: tuple[Answer, ...]
    none: float


def answer(
    ready: Ready, question: str, context: str, *, top_k: int = 1, window: int = WINDOW, stride: int = STRIDE,
    longest: int = LONGEST,
) -> Answers:  # fmt: skip
    """Where in `context` the answer to `question` stands, in characters.

    A span of tokens i to j has the logit start[i] + end[j]; no answer has that of the first token (Devlin et al. 2018),
    the least over the windows. A softmax over all spans of at most `longest` tokens and no answer gives probabilities.
    A context that passes `window` tokens, with the question and what stands around them, is read in windows that share
    `stride` tokens; a span counts in the window that shows most context of its first token.

    UsageError for a model without a span head; LayoutError for a question that leaves no room.
    """
    ready.head(SpanHeadSpec, "answer", "span")
    if min(top_k, longest) < 1:
        raise UsageError("answer", f"asks for {top_k} answers of at most {longest} tokens", "must both be at least 1")
    tokenizer = ready.tokenizer
    asked, (ids, places) = tokenizer.encode(question), tokenizer.offsets(context)
    if not ids:
        raise UsageError("context", "is empty", "must hold the answer")
    spans = _spans(ready, len(asked), len(ids), window, stride)
    rows = [tokenizer.join(asked, ids[span.start : span.stop]) for span in spans]
    ready.fits(rows, "context")
    scores = _scores(spans, owners(spans, len(ids)), rows, logits(ready, rows), longest)
    none = min(float(one[0].sum()) for one in scores.windows)
    total = torch.logsumexp(torch.cat([one.flatten() for one in scores.spans] + [torch.tensor([none])]), 0)
    found: list[tuple[float, int, int]] = []
    for span, table in zip(spans, scores.spans):
        best, flat = table.flatten().topk(min(top_k, table.numel()))
        for value, at in zip(best.tolist(), flat.tolist()):
            found.append((value, span.start + at // len(span), span.start + at % len(span)))
    found = [one for one in sorted(found, reverse=True)[:top_k] if one[0] > -torch.inf]
    answers = [_answer(context, places, i, j, float(torch.exp(value - total))) for value, i, j in found]
    return Answers(tuple(answers), float(torch.exp(none - total)))


class _Scores(NamedTuple):
    windows: list[Tensor]  # [T, 2] start and end logits
    spans: list[Tensor]  # [C, C] of each window's context: the logit of i to j, -inf where it is none


def _spans(ready: Ready, asked: int, tokens: int, window: int, stride: int) -> list[range]:
    """The windows of the context."""
    around = len(ready.tokenizer.join([], []).ids) + asked
    width = (window if ready.longest is None else min(window, ready.longest)) - around
    if width < 1:
        raise LayoutError("question", f"has {asked} tokens", f"a window has {width + around} with {around - asked} around",
                          "a shorter question, or a wider window")  # fmt: skip
    if stride < 0:
        raise UsageError("stride", f"is {stride}", "must be at least 0")
    return windows(tokens, width, min(stride, width // 2))


def _scores(spans: list[range], owner: list[int], rows: list[Framed], found: list[Tensor], longest: int) -> _Scores:
    tables = []
    for number, (span, row, one) in enumerate(zip(spans, rows, found)):
        start, end = one[row.second.start : row.second.stop].unbind(-1)
        table = start[:, None] + end[None, :]
        width = torch.ones_like(table, dtype=torch.bool)
        own = torch.tensor([owner[t] == number for t in span])
        allowed = width.triu() & ~width.triu(longest) & own[:, None]
        tables.append(table.masked_fill(~allowed, -torch.inf))
    return _Scores(found, tables)


def _answer(context: str, places: list[tuple[int, int]], first: int, last: int, score: float) -> Answer:
    start, end = trimmed(context, places[first][0], places[last][1])
    return Answer(context[start:end], start, end, score)
