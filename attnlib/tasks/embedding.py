"""Vectors of texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attnlib.models.heads import EmbedHeadSpec
from attnlib.pretrained.sentence import SentenceSpec, sentence_spec_of
from attnlib.tasks.ready import Ready
from attnlib.tasks.rows import BUDGET, states
from attnlib.text.tokenizer import Framed

Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Embeddings:
    """vectors [N, M] in float32 on the host; `cut` and `empty` number the texts that were shortened or without a token."""

    vectors: Tensor
    cut: tuple[int, ...] = ()
    empty: tuple[int, ...] = ()


def embed(
    ready: Ready, texts: Sequence[str], *, spec: SentenceSpec | None = None, report: Report | None = None,
    budget: int = BUDGET,
) -> Embeddings:  # fmt: skip
    """One vector a text, in the order of the texts.

    `spec` says how: by default what the folder's own files say, else the model's head where it is an embed head, else
    the normalised mean of the final states. What is longer than the model or its files allow is cut at its end; a text
    of no token at all is the zero vector. `report(done, total)` is called in texts as they are done.
    """
    spec = spec or recipe_of(ready)
    rows, cut = _rows(ready, texts, spec)
    filled = [i for i, row in enumerate(rows) if row.ids]
    ready.fits([rows[i] for i in filled], "texts")
    pool: Any = spec.head.build(d_model=1, vocab_size=1, d_embedding=1)  # nothing in it is learned
    out, done = torch.zeros(len(rows), 0), 0
    for found in states(ready, [rows[i] for i in filled], budget=budget):
        with torch.inference_mode():
            vectors = pool.pooled(found.x.float(), found.layout).cpu()
        out = torch.zeros(len(rows), vectors.shape[1]) if not done else out
        out[[filled[i] for i in found.numbers]] = vectors
        done += len(found.numbers)
        if report is not None:
            report(done, len(filled))
    return Embeddings(out, cut, tuple(i for i, row in enumerate(rows) if not row.ids))


def recipe_of(ready: Ready) -> SentenceSpec:
    """How this model makes a vector of a text."""
    found = None if ready.folder is None else sentence_spec_of(ready.folder)
    if found is not None:
        return found
    head = getattr(getattr(ready.model, "spec", None), "head", None)
    return SentenceSpec(head if isinstance(head, EmbedHeadSpec) else EmbedHeadSpec())


def _rows(ready: Ready, texts: Sequence[str], spec: SentenceSpec) -> tuple[list[Framed], tuple[int, ...]]:
    """The texts in ids, and the numbers of those that were cut."""
    texts = [spec.prompt + text for text in texts]
    ids = ready.tokenizer.encode_all([text.lower() for text in texts] if spec.lower else texts)
    bounds = [bound for bound in (spec.max_length, ready.longest) if bound is not None]
    if not bounds:
        return [ready.tokenizer.join(row) for row in ids], ()
    most = max(min(bounds) - len(ready.tokenizer.join([]).ids), 0)
    return [ready.tokenizer.join(row[:most]) for row in ids], tuple(i for i, row in enumerate(ids) if len(row) > most)
