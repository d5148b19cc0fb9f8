"""Taking tokens away from what a model reads."""

from __future__ import annotations

import torch
from torch import Tensor

from attnlib.errors import UsageError, nearest
from attnlib.inspect.question import Inputs, Question, Rows
from attnlib.layout import Layout

WAYS = ("hide", "blank")  # hide: no other token sees it; blank: a token without content stands in its place


def known_way(way: str) -> str:
    """The way, if there is one of that name."""
    if way not in WAYS:
        raise UsageError(f"removal {way}", "is unknown", f"wish one of {', '.join(WAYS)}", nearest(way, WAYS))
    return way


def without(question: Question, gone: dict[str, Tensor], way: str = "hide") -> Inputs:
    """Inputs in which row b lacks the tokens where `gone[side]` [B, T] is true.

    hide:  no query sees them; those that stay keep their positions. A column that a target is read from cannot be hidden,
           or it would see nothing itself: there the blank stands.
    blank: the embedding of the blank in their place, to be seen.
    """
    if way == "blank":
        return cut(question, gone, {})
    read = {column for target in question.targets for column in target.rows or ()}
    hidden = {name: absent.clone() for name, absent in gone.items()}
    if "text" in hidden:
        hidden["text"][:, sorted(read)] = False
    return cut(question, gone, hidden)


def cut(question: Question, gone: dict[str, Tensor], hidden: dict[str, Tensor]) -> Inputs:
    """Inputs whose tokens have the blank's embedding where `gone` [B, T], and are not seen where `hidden` [B, T]."""
    made = question.inputs(next(iter(gone.values())).shape[0])
    for side in question.sides:
        rows = made[side.name]
        embeds, layout = rows.embeds, rows.layout
        if side.name in gone:
            embeds = torch.where(gone[side.name][..., None], question.blanks(side), embeds)
        if side.name in hidden and bool(hidden[side.name].any()):
            layout = _hiding(hidden[side.name])
        made[side.name] = Rows(embeds, layout)
    return made


def _hiding(absent: Tensor) -> Layout:
    """Rows in which some places hold no token and the others stay where they are."""
    tokens = absent.shape[1]
    positions = torch.arange(tokens, device=absent.device).expand(absent.shape)
    counts = tuple(tokens - int(n) for n in absent.sum(1).tolist())
    return Layout.of(positions, torch.where(absent, -1, 0), extent=tokens, counts=counts)
