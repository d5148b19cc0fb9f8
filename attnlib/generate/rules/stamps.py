"""The rule of texts with times in them: stamps in pairs, in order, and where the model would rather say one."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from attnlib.generate.rules.base import HIDDEN, Change, Known, Rule, Texts


class TimeStamps(Rule, kind="time_stamps"):
    """Tokens from `first` on are times, the later the higher (Radford et al. 2022, arXiv:2212.04356, section 3.8).

    The first new token is a time, at most `latest` above `first`. Times then come in pairs, the end of one stretch and
    the begin of the next, or one alone before eos; a time is no earlier than the last, and later than it where it ends
    a stretch. Where all times together are likelier than any other token, one of them is said. The token before `first`
    asks for a text without times, and is never said.
    """

    first: int = Field(ge=1)
    latest: int | None = Field(default=None, ge=0)
    place: ClassVar[int] = 140

    def build(self, known: Known) -> Change:
        known.check([self.first], self.kind)
        ids = torch.arange(known.vocab, device=known.device)
        end = min(known.eos, default=self.first)  # all texts are below the special tokens, the first of which is eos

        def change(scores: Tensor, texts: Texts) -> Tensor:
            hidden = self._by_pairs(ids, texts, end) if texts.new else self._at_first(ids)
            return self._rather(scores.masked_fill(hidden | (ids == self.first - 1), HIDDEN))

        return change

    def _at_first(self, ids: Tensor) -> Tensor:
        """[V]: what may not come first."""
        texts = ids < self.first
        return texts if self.latest is None else texts | (ids > self.first + self.latest)

    def _by_pairs(self, ids: Tensor, texts: Texts, end: int) -> Tensor:
        """[B, V]: what may not follow what was said."""
        said = texts.ids[:, -texts.new :]  # [B, new]
        times = said >= self.first
        last = times[:, -1:]
        before = times[:, -2:-1] if texts.new > 1 else torch.ones_like(last)
        latest = torch.where(times, said, -1).amax(1, keepdim=True)  # [B, 1]
        floor = torch.where(last & ~before, latest, latest + 1)
        early = (ids >= self.first) & (ids < floor)
        return early | (last & before & (ids >= self.first)) | (last & ~before & (ids < end))

    def _rather(self, scores: Tensor) -> Tensor:
        logs = scores.log_softmax(-1)
        rather = logs[:, self.first :].logsumexp(-1) > logs[:, : self.first].amax(-1)
        texts = torch.arange(scores.shape[1], device=scores.device) < self.first
        return scores.masked_fill(rather[:, None] & texts, HIDDEN)
