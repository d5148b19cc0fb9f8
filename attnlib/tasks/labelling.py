"""Labels of whole texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from attnlib.models.heads import ClassifyHeadSpec
from attnlib.tasks.ready import Ready
from attnlib.tasks.rows import logits
from attnlib.text.tokenizer import Framed


class Label(NamedTuple):
    """A label's name and its probability; of a regression the number itself."""

    name: str
    score: float


def classify(ready: Ready, texts: Sequence[str | tuple[str, str]]) -> list[list[Label]]:
    """The labels of each text, or pair of texts, the likeliest first.

    One label holds (softmax), or any number of them (sigmoid each), as the head's word `problem` says; the numbers of
    a regression come in the head's order. UsageError for a model without such a head; LayoutError for long texts.
    """
    head = ready.head(ClassifyHeadSpec, "classify", "classify")
    rows = [_row(ready, text) for text in texts]
    ready.fits(rows, "texts")
    return [_labels(head, one) for one in logits(ready, rows)]


def _row(ready: Ready, text: str | tuple[str, str]) -> Framed:
    tokenizer = ready.tokenizer
    if isinstance(text, str):
        return tokenizer.join(tokenizer.encode(text, bos=tokenizer.opens))  # as `classify` trains
    return tokenizer.join(tokenizer.encode(text[0]), tokenizer.encode(text[1]))


def _labels(head: ClassifyHeadSpec, scores: Tensor) -> list[Label]:
    problem = head.problem or ("single_label" if head.num_labels > 1 else "multi_label")
    if problem == "regression":
        return [Label(*one) for one in zip(head.names, scores.tolist())]
    chances = scores.softmax(-1) if problem == "single_label" else scores.sigmoid()
    return sorted((Label(*one) for one in zip(head.names, chances.tolist())), key=lambda one: -one.score)
