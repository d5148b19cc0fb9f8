"""How well a model did: pure functions of predictions and labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor


def language_scores(
    nll: float, predicted: Tensor, labels: Tensor, tokens_per_character: float | None = None
) -> dict[str, float]:
    """loss (nats a token), perplexity exp(loss), accuracy, and bits_per_character where the text's length is known.

    nll: summed over the labels, in nats. Bits per character = loss / ln 2 * tokens / characters, which compares models
    of different vocabularies.
    """
    count = labels.numel()
    if count == 0:
        return {"loss": 0.0, "perplexity": 1.0, "accuracy": 0.0}
    mean = nll / count
    found = {
        "loss": mean,
        "perplexity": math.exp(mean) if mean < 700 else math.inf,
        "accuracy": float((predicted == labels).sum()) / count,
    }
    if tokens_per_character is not None:
        found["bits_per_character"] = bits_per_character(mean, tokens_per_character)
    return found


def bits_per_character(nats_per_token: float, tokens_per_character: float) -> float:
    """nats_per_token / ln 2 * tokens_per_character."""
    return nats_per_token / math.log(2) * tokens_per_character


def label_scores(predicted: Sequence[int], labels: Sequence[int], classes: int) -> dict[str, float]:
    """accuracy, macro_f1 and micro_f1, with F1 = 2 tp / (2 tp + fp + fn).

    macro: mean over the classes that occur in labels or predictions; micro: of the pooled counts, which for one label
    a row is the accuracy.
    """
    tp, fp, fn = [0] * classes, [0] * classes, [0] * classes
    for guess, label in zip(predicted, labels, strict=True):
        if guess == label:
            tp[label] += 1
        else:
            fp[guess] += 1
            fn[label] += 1
    each = [_f1(*counts) for counts in zip(tp, fp, fn) if any(counts)]
    count = max(len(labels), 1)
    return {
        "accuracy": sum(tp) / count,
        "macro_f1": sum(each) / max(len(each), 1),
        "micro_f1": _f1(sum(tp), sum(fp), sum(fn)),
    }


def _f1(tp: int, fp: int, fn: int) -> float:
    return 2 * tp / (2 * tp + fp + fn) if tp else 0.0


def exact_match(predicted: Sequence[str], targets: Sequence[str]) -> float:
    """The share of predictions that equal their target, blanks at both ends aside."""
    same = sum(p.strip() == t.strip() for p, t in zip(predicted, targets, strict=True))
    return same / max(len(targets), 1)


def generated_match(
    sources: Sequence[str],
    targets: Sequence[str],
    generate: Callable[[Sequence[str]], Sequence[str]],
    batch_size: int = 64,
) -> float:
    """`exact_match` of what `generate` makes of the sources, `batch_size` at a time."""
    predicted: list[str] = []
    for at in range(0, len(sources), batch_size):
        predicted += generate(sources[at : at + batch_size])
    return exact_match(predicted, targets)
