"""Tasks whose answers are known: token ids, and the id that is right after each place that is asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

NOT_ASKED = -100


@dataclass(frozen=True)
class Batch:
    """ids [B, T]; targets [B, T], NOT_ASKED where nothing is; source [B, S] of an encoder-decoder."""

    ids: Tensor
    targets: Tensor
    source: Tensor | None = None


@dataclass(frozen=True)
class Task:
    """draw(generator, rows, n): n is what makes it hard, in `unit`. A model is trained on all `lengths`, told of each.

    steps: of training, enough for what softmax attention, or most kinds, can learn of it.
    """

    name: str
    stack: str
    vocab: int
    lengths: tuple[int, ...]
    unit: str
    draw: Callable[[torch.Generator, int, int], Batch]
    room: Callable[[int], int]  # tokens of a text of n
    steps: int


def _some(made: torch.Generator, rows: int, among: int, count: int) -> Tensor:
    """[rows, count] distinct numbers below `among`, in random order."""
    return torch.rand(rows, among, generator=made).argsort(1)[:, :count]


def _any(made: torch.Generator, rows: int, below: int, count: int) -> Tensor:
    return torch.randint(below, (rows, count), generator=made)


def mqar(made: torch.Generator, rows: int, n: int) -> Batch:
    """n pairs of key and value, then all keys again in another order: the value of each.

    Multi-query associative recall (Arora et al. 2023, arXiv:2312.04927).
    """
    keys, values = _some(made, rows, 32, n), 32 + _any(made, rows, 32, n)
    order = _some(made, rows, n, n)
    told = torch.stack([keys, values], 2).flatten(1)
    ids = torch.cat([told, keys.gather(1, order)], 1)
    return Batch(ids, torch.cat([torch.full_like(told, NOT_ASKED), values.gather(1, order)], 1))


def needle(made: torch.Generator, rows: int, n: int) -> Batch:
    """A marked value among filler, n tokens before the mark that asks for it."""
    ids = 2 + _any(made, rows, 16, 100)
    values = 18 + _any(made, rows, 16, 1)[:, 0]
    ids[:, -1], ids[:, -1 - n], ids[:, -n] = 0, 0, values
    targets = torch.full_like(ids, NOT_ASKED)
    targets[:, -1] = values
    return Batch(ids, targets)


def selective_copy(made: torch.Generator, rows: int, n: int) -> Batch:
    """8 tokens spread among n - 8 of noise, then 8 blanks: the tokens in their order (Gu & Dao 2023, arXiv:2312.00752)."""
    ids = torch.zeros(rows, n + 8, dtype=torch.long)
    tokens = 2 + _any(made, rows, 14, 8)
    places = _some(made, rows, n, 8).sort(1).values
    ids.scatter_(1, places, tokens)
    ids[:, n:] = 1
    targets = torch.full_like(ids, NOT_ASKED)
    targets[:, n:] = tokens
    return Batch(ids, targets)


def induction(made: torch.Generator, rows: int, n: int) -> Batch:
    """A special token once in a random text of n, and again at its end: what came after it (Olsson et al. 2022)."""
    ids = 1 + _any(made, rows, 15, n)
    place = torch.randint(n - 3, (rows, 1), generator=made)
    ids.scatter_(1, place, 0)
    ids[:, -1] = 0
    targets = torch.full_like(ids, NOT_ASKED)
    targets[:, -1] = ids.gather(1, place + 1)[:, 0]
    return Batch(ids, targets)


def sorting(made: torch.Generator, rows: int, n: int) -> Batch:
    """n numbers: at every place, the one that stands there in order."""
    ids = _any(made, rows, 32, n)
    return Batch(ids, ids.sort(1).values)


def copying(made: torch.Generator, rows: int, n: int) -> Batch:
    """A source of n random tokens, written again."""
    source = 1 + _any(made, rows, 31, n)
    return Batch(torch.cat([torch.zeros(rows, 1, dtype=torch.long), source[:, :-1]], 1), source, source)


TASKS = {
    task.name: task
    for task in (
        Task("mqar", "decoder", 64, (4, 8, 16), "pairs", mqar, lambda n: 3 * n, 500),
        Task("needle", "decoder", 34, (8, 24, 96), "tokens before", needle, lambda n: 100, 150),
        Task("selective_copy", "decoder", 16, (24, 64), "tokens", selective_copy, lambda n: n + 8, 350),
        Task("induction", "decoder", 16, (24, 64), "tokens", induction, lambda n: n, 350),
        Task("sorting", "encoder", 32, (8, 24), "numbers", sorting, lambda n: n, 400),
        Task("copying", "encoder_decoder", 32, (12, 36), "tokens", copying, lambda n: n, 300),
    )
}
