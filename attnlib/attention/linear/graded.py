"""Products of queries and keys under a decay a channel, by halves, so that no factor is above 1."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from attnlib.attention.linear.decayed import decayed


class Level(NamedTuple):
    """Blocks of 2 `size` tokens whose later half meets the earlier one by way of the last token of that: both halves
    [.., C / 2 size, size, D], as decayed, and by which factor.
    """

    late: Tensor
    early: Tensor
    late_factor: Tensor
    early_factor: Tensor


def graded(q: Tensor, k: Tensor, total: Tensor) -> tuple[Tensor, list[Level]]:
    """sum over d of q_id k_jd exp(b_id - b_jd) for i >= j, else 0: [.., C, C], C a power of two, and how it was found.

    q, k and the running sum b of the decay are [.., C, D]. A token meets itself undecayed; blocks of two tokens, then of
    four and so on, add the pairs across their middle.
    """
    found, levels = (q * k).sum(-1)[..., None, None], []
    size = 1
    while size < q.shape[-2]:
        a, c, b = (t.unflatten(-2, (-1, 2, size)) for t in (q, k, total))
        middle = b[..., 0, -1:, :]
        late, early = decayed(b[..., 1, :, :] - middle), decayed(middle - b[..., 0, :, :])
        level = Level(a[..., 1, :, :] * late, c[..., 0, :, :] * early, late, early)
        across = level.late @ level.early.transpose(-1, -2)
        first, second = found.unflatten(-3, (-1, 2)).unbind(-3)
        above = torch.zeros_like(first)
        found = torch.cat([torch.cat([first, above], -1), torch.cat([across, second], -1)], -2)
        levels.append(level)
        size *= 2
    return found.squeeze(-3), levels


def graded_backward(grad: Tensor, q: Tensor, k: Tensor, levels: list[Level]) -> tuple[Tensor, Tensor]:
    """The gradients of q and k from that of the products [.., C, C]; above the diagonal it is not looked at."""
    alone = grad.diagonal(dim1=-2, dim2=-1)[..., None]
    dq, dk = alone * k, alone * q
    size = 1
    for level in levels:
        blocks = grad.unflatten(-1, (-1, 2, size)).unflatten(-4, (-1, 2, size))
        across = blocks[..., 1, :, :, 0, :].diagonal(dim1=-4, dim2=-2).movedim(-1, -3)  # [.., C / 2 size, size, size]
        late, early = dq.unflatten(-2, (-1, 2, size))[..., 1, :, :], dk.unflatten(-2, (-1, 2, size))[..., 0, :, :]
        late.addcmul_(_product(across, level.early), level.late_factor)
        early.addcmul_(_product(across.transpose(-1, -2), level.late), level.early_factor)
        size *= 2
    return dq, dk


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b, [.., S, S] and [.., S, D]; a matrix product of two or fewer is slower than to multiply and add."""
    return (a[..., None] * b[..., None, :, :]).sum(-2) if a.shape[-1] <= 2 else a @ b
