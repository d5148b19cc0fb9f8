"""Rules about the length of a row: an eos that may not come yet, or that grows likelier."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from attnlib.generate.rules.base import HIDDEN, Change, Known, Rule, Texts


class MinLength(Rule, kind="min_length"):
    """No eos before a row holds `tokens` tokens, its prompt included."""

    tokens: int = Field(ge=0)
    place: ClassVar[int] = 70
    none: ClassVar = (0,)

    def build(self, known: Known) -> Change:
        ends = known.marked(known.eos, "eos")
        return lambda scores, texts: scores.masked_fill((texts.length < self.tokens)[:, None] & ends, HIDDEN)


class MinNewTokens(Rule, kind="min_new_tokens"):
    """No eos before `tokens` new ones."""

    tokens: int = Field(ge=0)
    place: ClassVar[int] = 80
    none: ClassVar = (0,)
    instead: ClassVar = ("min_length",)

    def build(self, known: Known) -> Change:
        ends = known.marked(known.eos, "eos")
        return lambda scores, texts: scores.masked_fill(ends, HIDDEN) if texts.new < self.tokens else scores


class DecayingLength(Rule, kind="exponential_decay_length_penalty"):
    """After `start` new tokens, n tokens on, an eos gains |its score| * (factor ** n - 1)."""

    start: int
    factor: float
    place: ClassVar[int] = 110

    def build(self, known: Known) -> Change:
        ends = known.marked(known.eos, "eos")

        def change(scores: Tensor, texts: Texts) -> Tensor:
            beyond = texts.new - self.start
            if beyond <= 0:
                return scores
            gain = scores.abs() * (self.factor**beyond - 1)
            return torch.where(ends & scores.isfinite(), scores + gain, scores)

        return change
