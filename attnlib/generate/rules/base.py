"""A rule of generation: how one word of a generation config changes the scores of the next token.

A rule is a frozen value (`NoRepeat(size=3)`), made from YAML, JSON or an option of its name. `build` binds it to a model
and gives a function of the scores [B, V] and of what the rows hold. A new rule is one class; it works in greedy, sampled
and beam generation, where it changes log-probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from attnlib.errors import LayoutError
from attnlib.spec import Spec

HIDDEN = float("-inf")


@dataclass(frozen=True)
class Texts:
    """What every row of a batch holds. -1 fills the places left of a row's first token, and right of a source's last."""

    ids: Tensor  # [B, T] prompt and new tokens, the last one in the last column
    prompt: Tensor  # [B] tokens of the prompt
    most: Tensor  # [B] tokens that the row may hold in the end, prompt and all
    source: Tensor  # [B, S] what an encoder read; of a decoder alone, its prompt
    new: int = 0  # tokens generated so far, the same in every row

    @property
    def length(self) -> Tensor:
        """Tokens of each row so far, prompt and all, [B]."""
        return self.prompt + self.new

    @classmethod
    def of(cls, rows: list[list[int]], sources: list[list[int]], most: Sequence[int], device: torch.device) -> Texts:
        prompt = torch.tensor([len(row) for row in rows], device=device)
        return cls(_filled(rows, device, left=True), prompt, torch.tensor(most, device=device), _filled(sources, device))

    def rows(self, places: Tensor) -> Texts:
        """The rows at `places` [R], in that order."""
        return Texts(self.ids[places], self.prompt[places], self.most[places], self.source[places], self.new)

    def then(self, tokens: Tensor) -> Texts:
        """With one more token a row, `tokens` [B]."""
        return replace(self, ids=torch.cat((self.ids, tokens[:, None]), 1), new=self.new + 1)


def _filled(rows: list[list[int]], device: torch.device, *, left: bool = False) -> Tensor:
    width = max(map(len, rows))
    padded = [[-1] * (width - len(row)) + row if left else row + [-1] * (width - len(row)) for row in rows]
    return torch.tensor(padded, dtype=torch.long, device=device)


@dataclass(frozen=True)
class Known:
    """What a rule is bound to: a vocabulary, the ids that end a row, and which rules work beside it."""

    vocab: int
    eos: tuple[int, ...]
    device: torch.device
    beside: frozenset[str] = frozenset()

    def marked(self, ids: Sequence[int], rule: str) -> Tensor:
        """[V] bool: which tokens are among `ids`; LayoutError for ids that the vocabulary has not."""
        self.check(ids, rule)
        marks = torch.zeros(self.vocab, dtype=torch.bool, device=self.device)
        marks[list(ids)] = True
        return marks

    def check(self, ids: Sequence[int], rule: str) -> None:
        for place, token in enumerate(ids):
            if not 0 <= token < self.vocab:
                raise LayoutError(f"generate.{rule}", f"token {place} is {token}", f"ids must lie in 0..{self.vocab - 1}",
                                  "is this the model's generation config?")  # fmt: skip


Change = Callable[[Tensor, Texts], Tensor]  # scores [B, V] and texts to scores [B, V]; the scores given are not written to


class Rule(Spec, slot="rule"):
    """Changes the scores of the next token. Kinds are named as generation configs name them.

    place    where it stands among others, as transformers orders them: lower first; one of your own comes after those
             that always act, before those that act where tokens are drawn
    draws    acts only where tokens are drawn (temperature > 0)
    instead  kinds that have no effect beside this one
    none     values by which generation configs say that there is no such rule
    """

    place: ClassVar[int] = 500
    draws: ClassVar[bool] = False
    instead: ClassVar[tuple[str, ...]] = ()
    none: ClassVar[tuple[Any, ...]] = ()

    @classmethod
    def short(cls, tree: Any) -> Any:
        """A value stands for a rule's only field, a list for its fields in order."""
        names = list(cls.model_fields)
        if len(names) == 1:
            return {names[0]: tree}
        return dict(zip(names, tree)) if isinstance(tree, list | tuple) and len(tree) == len(names) else tree

    def build(self, known: Known) -> Change:
        raise NotImplementedError

    def value(self) -> Any:
        """What the rule's name stands for in a generation config."""
        values = [getattr(self, name) for name in type(self).model_fields]
        return values[0] if len(values) == 1 else tuple(values)


def among(ids: Tensor, vocab: int) -> Tensor:
    """Which tokens [B, V] stand in ids [B, N]; -1, and ids that the vocabulary has not, are passed over."""
    spare = ids.masked_fill(ids < 0, vocab).clamp(max=vocab)
    marks = torch.zeros(len(ids), vocab + 1, dtype=torch.bool, device=ids.device)
    return marks.scatter_(1, spare, True)[:, :vocab]
