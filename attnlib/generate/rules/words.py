"""Rules about tokens and runs of tokens by name: forbidden, or more and less likely."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from attnlib.generate.rules.base import HIDDEN, Change, Known, Rule, Texts

Run = Annotated[tuple[int, ...], Field(min_length=1)]


class SequenceBias(Rule, kind="sequence_bias"):
    """A number is added to the score of the token that completes one of these runs of tokens: [[[5, 7], -2.0], ...]."""

    runs: tuple[tuple[Run, float], ...]
    place: ClassVar[int] = 10

    def build(self, known: Known) -> Change:
        return _completing(self.runs, known, self.kind)


class BadWords(Rule, kind="bad_words_ids"):
    """These runs of tokens are never said; one that is an eos alone is passed over."""

    runs: tuple[Run, ...]
    place: ClassVar[int] = 60

    def build(self, known: Known) -> Change:
        runs = [(run, HIDDEN) for run in self.runs if not (len(run) == 1 and run[0] in known.eos)]
        return _completing(runs, known, self.kind)


class Suppress(Rule, kind="suppress_tokens"):
    """These ids are never said."""

    ids: tuple[int, ...]
    place: ClassVar[int] = 120
    none: ClassVar = ((),)

    def build(self, known: Known) -> Change:
        marks = known.marked(self.ids, self.kind)
        return lambda scores, texts: scores.masked_fill(marks, HIDDEN)


class BeginSuppress(Rule, kind="begin_suppress_tokens"):
    """These ids are not said first: not after the prompt, nor after the forced bos of a prompt of one token."""

    ids: tuple[int, ...]
    place: ClassVar[int] = 130
    none: ClassVar = ((),)

    def build(self, known: Known) -> Change:
        marks = known.marked(self.ids, self.kind)
        forced = "forced_bos_token_id" in known.beside

        def change(scores: Tensor, texts: Texts) -> Tensor:
            here = (texts.prompt == 1) & forced if texts.new == 1 else torch.full_like(texts.prompt, texts.new == 0).bool()
            return scores.masked_fill(here[:, None] & marks, HIDDEN)

        return change


def _completing(runs: Sequence[tuple[Run, float]], known: Known, rule: str) -> Change:
    """Adds each run's number to its last token, in rows that end with the tokens before it."""
    groups: dict[int, list[tuple[Run, float]]] = {}
    for run, number in dict(runs).items():
        known.check(run, rule)
        groups.setdefault(len(run) - 1, []).append((run, number))
    tensors = [
        (torch.tensor([run[:-1] for run, _ in group], dtype=torch.long, device=known.device),  # [N, before]
         torch.tensor([run[-1] for run, _ in group], device=known.device),
         torch.tensor([number for _, number in group], device=known.device))
        for group in groups.values()
    ]  # fmt: skip

    def change(scores: Tensor, texts: Texts) -> Tensor:
        bias = torch.zeros_like(scores)
        for before, last, number in tensors:
            if (width := before.shape[1]) <= texts.ids.shape[1]:
                end = texts.ids[:, texts.ids.shape[1] - width :]
                found = (end[:, None] == before).all(-1)  # [B, N]
                bias.index_add_(1, last, torch.where(found, number, 0.0).to(bias.dtype))
        return scores + bias

    return change
