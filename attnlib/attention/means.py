"""Means of groups of tokens."""

from __future__ import annotations

from torch import Tensor

from attnlib.attention.exact import exact


def grouped_means(x: Tensor, group: Tensor, real: Tensor, number: int) -> Tensor:
    """[B, H, N, D] means of the tokens of x [B, H, T, D] in each of so many groups; a token's is `group` [B, T].

    What is not `real` [B, T] belongs to none; a group of none is zero. In at least float32.
    """
    kept = exact(x) * real[:, None, :, None]
    total = kept.new_zeros(*x.shape[:2], number, x.shape[3]).scatter_add(2, group[:, None, :, None].expand_as(kept), kept)
    count = kept.new_zeros(x.shape[0], number).scatter_add(1, group, real.to(kept.dtype))
    return total / count.clamp(min=1)[:, None, :, None]
