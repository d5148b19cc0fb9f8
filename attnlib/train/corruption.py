"""What denoising objectives do to a text: masked tokens (BERT) and removed spans (T5). Pure functions of an rng."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from attnlib.errors import DataError
from attnlib.text.tokenizer import Flags, Ids

IGNORE = -100  # the target of a position that carries no loss

_MASK, _RANDOM = 0.8, 0.1  # of the chosen positions; the rest keep their token


def mask_tokens(
    ids: Ids,
    rng: np.random.Generator,
    *,
    rate: float,
    mask_id: int,
    choices: Ids,
    candidates: Flags,
    words: Ids | None = None,
) -> tuple[Ids, Ids]:
    """Inputs with tokens hidden, and targets: the token where it was chosen, IGNORE elsewhere ([T] twice).

    Of the candidates, `rate` are chosen: 80% become `mask_id`, 10% one of `choices` at random, 10% stay (Devlin et
    al., 2018). With `words` ([T], one number a word), whole words are chosen until `rate` of the tokens are.
    At least one token is chosen where there is a candidate.
    """
    targets = np.full_like(ids, IGNORE)
    places = np.flatnonzero(candidates)
    if not len(places):
        return ids.copy(), targets
    chosen = _chosen(places, rng, max(1, round(rate * len(places))), words)
    targets[chosen] = ids[chosen]
    inputs, fate = ids.copy(), rng.random(len(chosen))
    inputs[chosen[fate < _MASK]] = mask_id
    swapped = chosen[(fate >= _MASK) & (fate < _MASK + _RANDOM)]
    inputs[swapped] = rng.choice(choices, len(swapped))
    return inputs, targets


def _chosen(places: Ids, rng: np.random.Generator, count: int, words: Ids | None) -> Ids:
    if words is None:
        return rng.choice(places, count, replace=False)
    sizes = np.bincount(words[places])  # by word
    order = rng.permutation(np.flatnonzero(sizes))
    enough = int(np.searchsorted(np.cumsum(sizes[order]), count)) + 1
    picked = np.zeros(len(sizes), dtype=bool)
    picked[order[:enough]] = True
    return places[picked[words[places]]]


def word_numbers(ids: Ids, edges: tuple[Flags, Flags]) -> Ids:
    """One number a word, [T]: tokens i and i+1 share it when one can be continued and the other continues."""
    continues, continued = edges
    starts = np.ones(len(ids), dtype=np.int64)
    starts[1:] = ~(continued[ids[:-1]] & continues[ids[1:]])
    return np.cumsum(starts)


def corrupt_spans(
    ids: Ids, rng: np.random.Generator, *, density: float, mean_span: float, sentinels: Sequence[int]
) -> tuple[Ids, Ids]:
    """Source with spans replaced by sentinels, and target that gives them back (Raffel et al., 2020, section 3.1.4).

    source = kept0 <s0> kept1 <s1> ..., target = <s0> span0 <s1> span1 ...: `density` of the tokens are removed, in
    spans of `mean_span` on average. The lengths of spans and of what is kept are uniform over all ways to divide them.
    """
    removed, spans = span_counts(len(ids), density, mean_span)
    if spans > len(sentinels):
        raise DataError("tokenizer.sentinels", f"are {len(sentinels)}", f"{len(ids)} tokens need {spans}",
                        f"tokenizer: {{kind: bytes, sentinels: {spans}}}, or a longer mean_span")  # fmt: skip
    kept_ends = np.cumsum(np.stack([_divided(len(ids) - removed, spans, rng), _divided(removed, spans, rng)], 1))
    source, target, at = [], [], 0
    for i in range(spans):
        span_start, span_end = kept_ends[2 * i], kept_ends[2 * i + 1]
        mark = np.array(sentinels[i : i + 1], dtype=np.int64)
        source += [ids[at:span_start], mark]
        target += [mark, ids[span_start:span_end]]
        at = span_end
    return np.concatenate(source), np.concatenate(target)


def span_counts(tokens: int, density: float, mean_span: float) -> tuple[int, int]:
    """How many of the tokens are removed, and in how many spans; at least one stays and one goes."""
    if tokens < 2:
        raise DataError("text", f"holds {tokens} token", "span corruption needs at least 2")
    removed = min(max(round(tokens * density), 1), tokens - 1)
    spans = min(max(round(removed / mean_span), 1), removed, tokens - removed)
    return removed, spans


def raw_length(length: int, density: float, mean_span: float) -> int:
    """The most tokens whose corrupted source, with an end mark, is at most `length` long."""
    if length < 3:
        raise DataError("train.length", f"is {length}", "span corruption needs at least 3")
    raw = length - 1  # a span is at least as long as its sentinel, so this much always fits
    while True:
        removed, spans = span_counts(raw + 1, density, mean_span)
        if raw + 1 - removed + spans + 1 > length:
            return raw
        raw += 1


def _divided(total: int, parts: int, rng: np.random.Generator) -> Any:
    """`total` into `parts` positive numbers, each way equally likely: [parts]."""
    cuts = np.sort(rng.choice(total - 1, parts - 1, replace=False)) + 1
    return np.diff(np.concatenate([[0], cuts, [total]]))
