"""Rules that leave no choice: what a row begins and ends with. A forced token has score 0, all others -inf."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from attnlib.generate.rules.base import HIDDEN, Change, Known, Rule


class ForcedBos(Rule, kind="forced_bos_token_id"):
    """The token after a prompt of one token, such as the language that a translation is written in (mBART)."""

    id: int
    place: ClassVar[int] = 90

    def build(self, known: Known) -> Change:
        only = _only([self.id], known, self.kind)
        return lambda scores, texts: torch.where((texts.length == 1)[:, None], only, scores)


class ForcedEos(Rule, kind="forced_eos_token_id"):
    """The last token that a row has room for is one of these."""

    ids: tuple[int, ...] = Field(min_length=1)
    place: ClassVar[int] = 100

    @classmethod
    def short(cls, tree: Any) -> Any:
        return {"ids": (tree,) if isinstance(tree, int) else tree}

    def build(self, known: Known) -> Change:
        only = _only(self.ids, known, self.kind)
        return lambda scores, texts: torch.where((texts.length == texts.most - 1)[:, None], only, scores)


def _only(ids: Sequence[int], known: Known, rule: str) -> Tensor:
    """[V]: 0 for these tokens, -inf for others."""
    marks = known.marked(ids, rule)
    return torch.zeros(known.vocab, device=known.device).masked_fill(~marks, HIDDEN)
