"""What tokens do to a matrix state, whichever way it is computed."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

_TIME = (3, 2, 2, 2, 2)  # where tokens stand in each


class Steps(NamedTuple):
    """What T tokens do to a state [B, G, D, E] of G heads that R query heads each read.

    q [B, G, R, T, D], k [B, G, T, D], v [B, G, T, E]; decay: g <= 0, [B, G, T] or [B, G, T, D]; beta [B, G, T].
    """

    q: Tensor
    k: Tensor
    v: Tensor
    decay: Tensor | None = None
    beta: Tensor | None = None

    def flip(self) -> Steps:
        """The tokens in reverse order."""
        return Steps(*(None if t is None else t.flip(dim) for t, dim in zip(self, _TIME)))  # type: ignore[arg-type]

    def part(self, first: int, count: int) -> Steps:
        """`count` tokens from `first`, as views."""
        return Steps(*(None if t is None else t.narrow(dim, first, count) for t, dim in zip(self, _TIME)))  # type: ignore[arg-type]
