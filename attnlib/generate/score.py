"""How likely a model finds a text: log-probabilities token by token, and the perplexity of the whole."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attnlib.errors import LayoutError, UsageError
from attnlib.generate.prompts import (
    Prompts,
    Tokenizer,
    as_rows,
    begin_state,
    blocks,
    check_ids,
    device_of,
    evaluating,
    is_kind,
    need_head,
    start_of,
    vocab_of,
)
from attnlib.generate.sources import heard, listens
from attnlib.layout import Layout


@dataclass(frozen=True)
class Score:
    """The scored tokens of one row and the log-probability of each, in nats."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]

    @property
    def total(self) -> float:
        """Log-probability of all scored tokens together."""
        return math.fsum(self.logprobs)

    @property
    def perplexity(self) -> float:
        """exp(-total / number of tokens); NaN where no token is scored."""
        return perplexity([self])


def perplexity(scores: list[Score]) -> float:
    """exp of the mean negative log-probability over all tokens of all rows; NaN of none."""
    count = sum(len(score.logprobs) for score in scores)
    return math.exp(-math.fsum(score.total for score in scores) / count) if count else math.nan


def score(
    model: Any,
    ids: Prompts,
    layout: Layout | None = None,
    *,
    attention_mask: Tensor | None = None,
    source: Prompts | None = None,
    tokenizer: Tokenizer | None = None,
    start: int | None = None,
    mask_id: int | None = None,
    chunk: int = 256,
) -> list[Score]:
    """Per-token log-probabilities of every row of `ids`.

    decoder           log p(token | those before). The first token has none before it: it is scored only after an
                      explicit `start` id, or the bos of the tokenizer's template
    encoder_decoder   log p(token | source, target before), `ids` being the targets, after the start id; the source of one
                      that listens is features [batch, channels, frames]
    encoder           pseudo-log-likelihood (Salazar et al. 2020): log p(token | all others), masking each in turn with
                      `mask_id` (or the tokenizer's); special tokens of the tokenizer are not scored

    `chunk` bounds memory: columns scored at once (decoders), masked copies at once (encoder). LayoutError for rows that
    do not fit the model, UsageError where its logits are not numbers.
    """
    if chunk < 1:
        raise UsageError("score.chunk", f"is {chunk}", "must be at least 1")
    need_head(model)
    alone = is_kind(model, "decoder")
    rows = as_rows(ids, "ids", attention_mask=attention_mask, layout=layout, tokenizer=tokenizer, end=not alone)
    check_ids(rows, vocab_of(model), "ids")
    if not rows:
        return []
    if is_kind(model, "encoder"):
        mask_id = getattr(tokenizer, "mask_id", None) if mask_id is None else mask_id
        return _masked(model, rows, mask_id, frozenset(getattr(tokenizer, "special_names", ())), chunk)
    if is_kind(model, "encoder_decoder"):
        if source is None:
            raise UsageError("score.source", "is missing", "an encoder-decoder scores targets given their sources")
        sources: list[list[int]] | Tensor
        if listens(model):
            sources = heard(model, source, "source")
        else:
            sources = as_rows(source, "source", tokenizer=tokenizer, end=True)
            check_ids(sources, vocab_of(model, source=True), "source", filled=True)
        if len(sources) != len(rows):
            raise LayoutError("score.source", f"{len(sources)} sources for {len(rows)} rows", "must be one each")
        start = start_of(model, tokenizer, start)
        if start is None:
            raise UsageError("score.start", "is missing", "the decoder needs an id to start from", "give start=ID")
        return _causal(model, rows, sources, start, chunk)
    if start is not None:
        check_ids([[start]], vocab_of(model), "start")
    return _causal(model, rows, None, start, chunk)


@torch.no_grad()
def _causal(
    model: Any, rows: list[list[int]], sources: list[list[int]] | Tensor | None, start: int | None, chunk: int
) -> list[Score]:
    full = [row if start is None else [start, *row] for row in rows]
    known, targets = [row[:-1] for row in full], [row[1:] for row in full]
    found: list[list[float]] = [[] for _ in rows]
    width = max(len(row) for row in known)
    limit = model.max_length
    if limit is not None and width > limit:
        raise LayoutError("ids", f"{width} tokens are read", f"the model's positions end at {limit}", "score in parts")
    if width:
        with evaluating(model):
            state = begin_state(model, sources, len(rows), "growing", width)
            for ids, layout, counts in blocks(known, "right", chunk, device_of(model)):
                logits = model.step(ids, layout, state, at=slice(None))  # [B, t, V]
                need_head(model, logits)
                for row, count in enumerate(counts):
                    done = len(found[row])
                    wanted = torch.tensor(targets[row][done : done + count], dtype=torch.long, device=logits.device)
                    found[row] += _chosen(logits[row, :count].float(), wanted)
    return [Score(tuple(target), tuple(values)) for target, values in zip(targets, found)]


@torch.no_grad()
def _masked(model: Any, rows: list[list[int]], mask_id: int | None, special: frozenset[int], chunk: int) -> list[Score]:
    if mask_id is None:
        raise UsageError("score.mask_id", "is missing", "an encoder is scored by masking each token", "give mask_id=ID")
    check_ids([[mask_id]], vocab_of(model), "score.mask_id")
    found: list[list[float]] = [[] for _ in rows]
    wanted_at = [(row, column) for row, ids in enumerate(rows) for column, t in enumerate(ids) if t not in special]
    with evaluating(model):
        for places in _groups(wanted_at, chunk):
            copies = [[mask_id if c == column else t for c, t in enumerate(rows[row])] for row, column in places]
            ids, layout, _ = next(blocks(copies, "right", max(len(c) for c in copies), device_of(model)))
            at = torch.zeros(ids.shape, dtype=torch.bool, device=ids.device)
            at[torch.arange(len(places)), torch.tensor([column for _, column in places])] = True
            wanted = torch.tensor([rows[row][column] for row, column in places], device=ids.device)
            logits = model(ids, layout, at=at).logits  # [N, V], one row a copy
            need_head(model, logits)
            values = _chosen(logits.float(), wanted)
            for (row, _), value in zip(places, values):
                found[row].append(value)
    return [Score(tuple(t for t in ids if t not in special), tuple(values)) for ids, values in zip(rows, found)]


def _groups(places: list[tuple[int, int]], size: int) -> Iterator[list[tuple[int, int]]]:
    for first in range(0, len(places), size):
        yield places[first : first + size]


def _chosen(logits: Tensor, ids: Tensor) -> list[float]:
    values: list[float] = (logits.gather(-1, ids[:, None])[:, 0] - logits.logsumexp(-1)).tolist()
    if any(value != value for value in values):
        raise UsageError("ids", "logits are not numbers", "must be finite",
                         "the weights may hold NaN, or overflow in this dtype")  # fmt: skip
    return values
