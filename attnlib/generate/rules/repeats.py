"""Rules against repeating: what was said before, or what the source says."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from attnlib.generate import sampling
from attnlib.generate.rules.base import HIDDEN, Change, Known, Rule, among


class RepetitionPenalty(Rule, kind="repetition_penalty"):
    """Tokens that the row or its prompt holds already: logit / penalty above 0, * penalty below (Keskar et al. 2019)."""

    penalty: float = Field(gt=0.0)
    place: ClassVar[int] = 30
    none: ClassVar = (1,)

    def build(self, known: Known) -> Change:
        return lambda scores, texts: sampling.repetition_penalty(scores, among(texts.ids, known.vocab), self.penalty)


class EncoderRepetitionPenalty(Rule, kind="encoder_repetition_penalty"):
    """Tokens of the source are made likelier: the repetition penalty with 1 / penalty. A decoder's source is its prompt."""

    penalty: float = Field(gt=0.0)
    place: ClassVar[int] = 20
    none: ClassVar = (1,)

    def build(self, known: Known) -> Change:
        turned = 1 / self.penalty
        return lambda scores, texts: sampling.repetition_penalty(scores, among(texts.source, known.vocab), turned)


class NoRepeat(Rule, kind="no_repeat_ngram_size"):
    """No `size` tokens in a row are said a second time, the prompt included (Paulus et al. 2017, arXiv:1705.04304)."""

    size: int = Field(ge=0)
    place: ClassVar[int] = 40
    none: ClassVar = (0,)

    def build(self, known: Known) -> Change:
        return lambda scores, texts: _without(scores, texts.ids, texts.ids, self.size)


class EncoderNoRepeat(Rule, kind="encoder_no_repeat_ngram_size"):
    """No `size` tokens in a row are copied from the source. A decoder's source is its prompt."""

    size: int = Field(ge=0)
    place: ClassVar[int] = 50
    none: ClassVar = (0,)

    def build(self, known: Known) -> Change:
        return lambda scores, texts: _without(scores, texts.ids, texts.source, self.size)


def _without(scores: Tensor, ids: Tensor, text: Tensor, size: int) -> Tensor:
    """`scores` [B, V] without the tokens that would complete, after ids [B, T], `size` tokens of text [B, S]."""
    if not size or size > text.shape[1] or size > ids.shape[1] + 1:
        return scores
    windows = text.unfold(1, size, 1)  # [B, S - size + 1, size]
    end = ids[:, ids.shape[1] + 1 - size :]  # [B, size - 1]
    found = (windows[..., :-1] == end[:, None]).all(-1) & (windows >= 0).all(-1)
    last = torch.where(found, windows[..., -1], -1)
    return scores.masked_fill(among(last, scores.shape[1]), HIDDEN)
