"""What every method of explanation is: a question in, a score for each token of the input out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from attnlib.errors import UsageError, nearest
from attnlib.inspect.question import Question


@dataclass(frozen=True)
class Scores:
    """By side [N, T]: what each token has to do with each target; `notes`: what else the method found out, per target."""

    by_side: dict[str, Tensor]
    notes: dict[str, Tensor] = field(default_factory=dict)


class Method:
    """Scores the tokens of a reading for each target of a question.

    name:   how it is asked for.
    signed: whether what speaks against the target scores below zero; else scores only tell how much, never which way.
    """

    name: ClassVar[str] = ""
    signed: ClassVar[bool] = True

    def refuses(self, question: Question) -> str | None:
        """Why it cannot explain this model; None = it can."""
        return None

    def __call__(self, question: Question) -> Scores:
        raise NotImplementedError

    def __init_subclass__(cls, *, name: str = "", signed: bool = True) -> None:
        super().__init_subclass__()
        cls.name, cls.signed = name, signed
        if name:
            _known[name] = cls

    @staticmethod
    def known() -> dict[str, type[Method]]:
        """Every method by name, those of user modules included."""
        return dict(_known)


_known: dict[str, type[Method]] = {}


def find_method(name: str | Method) -> Method:
    """The method of a name, with its usual settings."""
    if isinstance(name, Method):
        return name
    if name not in _known:
        raise UsageError(f"method {name}", "is unknown", f"wish one of {', '.join(_known)}", nearest(name, _known))
    return _known[name]()


def stacked(question: Question, parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Groups of targets put together again, by side [N, T] in double precision on the CPU."""
    return {side.name: torch.cat([part[side.name].double().cpu() for part in parts]) for side in question.sides}
