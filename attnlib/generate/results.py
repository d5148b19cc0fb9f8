"""What generation gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

FinishReason = Literal["eos", "stop", "length"]


@dataclass(frozen=True)
class Generation:
    """One generated continuation.

    ids            generated tokens, the ending eos included, the prompt not
    text           their text after the prompt, without eos and cut before a stop string; None without a tokenizer
    logprobs       log p(token | before) of each id (nats) under the model itself: no temperature, filter or penalty
    finish_reason  "eos", "stop" (a stop string; `ids` then reach past the text), "length"
    prompt         index of the prompt; `sample`: which of its n results
    score          sum of logprobs; of beam search the length-penalised sum that ranked it
    """

    ids: tuple[int, ...]
    text: str | None
    logprobs: tuple[float, ...]
    finish_reason: FinishReason
    prompt: int
    sample: int
    score: float


class Event(NamedTuple):
    """One token of one row, as `stream` yields it; `text` is what became certain with it, perhaps nothing yet."""

    prompt: int
    sample: int
    token: int
    logprob: float
    text: str
    finish_reason: FinishReason | None
