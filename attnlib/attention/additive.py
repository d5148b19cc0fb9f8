"""Additive scores: a small network over each pair of query and key, in place of or beside their dot product."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from attnlib.attention.biases import ScoreTerm, TermSpec, cut
from attnlib.attention.exact import exact
from attnlib.layout import Coordinates


class Additive(ScoreTerm):
    """w[h] . tanh(q_i + k_j), w [H, D] (Bahdanau et al. 2014, arXiv:1409.0473): the paper's W and U are the projections
    of attention itself. Alone, without q . k, under `scores: {scale: 0}`.
    """

    bounded = True
    static = False
    relative = False

    def __init__(self, *, num_heads: int, d_head: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_heads, d_head))
        nn.init.normal_(self.weight, std=d_head**-0.5)

    def tensors(self, q: Tensor, k: Tensor) -> tuple[Tensor, ...]:
        """q [B, H, Q, D], k [B, G, K, D] and w."""
        return exact(q), exact(k), self.weight

    def score(self, tensors: tuple[Tensor, ...], q: Coordinates, k: Coordinates) -> Tensor:
        queries, keys, weight = tensors
        share = weight.shape[0] // keys.shape[1]
        theirs = k._replace(row=q.row, head=torch.div(q.head, share, rounding_mode="floor"))
        if q.head.dim() == 0:  # in a compiled kernel, which knows numbers and no vectors
            total = torch.zeros_like(queries[q.row, q.head, q.column, 0])
            for i in range(weight.shape[1]):
                met = queries[q.row, q.head, q.column, i] + keys[q.row, theirs.head, k.column, i]
                total = total + weight[q.head, i] * torch.tanh(met)
            return total
        keys = keys.repeat_interleave(share, 1) if share > 1 else keys
        few = weight if q.head.numel() == len(weight) else weight.index_select(0, q.head.flatten())
        return _Met.apply(cut(queries, q), cut(keys, k._replace(head=q.head)), few.to(queries.dtype))  # type: ignore[no-any-return, no-untyped-call]


class _Met(torch.autograd.Function):
    """w . tanh(a_i + b_j): [B, H, Q, D], [B, H, K, D], [H, D] -> [B, H, Q, K], a channel at a time in both directions."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(a, b, w)
        out = a.new_zeros(*a.shape[:3], b.shape[2])
        for i in range(a.shape[3]):
            out += w[:, None, None, i] * torch.tanh(a[..., i, None] + b[:, :, None, :, i])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, b, w = ctx.saved_tensors
        da, db, dw = torch.empty_like(a), torch.empty_like(b), torch.empty_like(w)
        for i in range(a.shape[3]):
            met = torch.tanh(a[..., i, None] + b[:, :, None, :, i])
            dw[:, i] = (grad * met).sum((0, 2, 3))
            slope = grad * w[:, None, None, i] * (1 - met.square())
            da[..., i], db[..., i] = slope.sum(3), slope.sum(2)
        return da, db, dw


class AdditiveSpec(TermSpec, kind="additive"):
    """w . tanh(q + k), the score of Bahdanau et al. 2014; with `scores: {scale: 0}` it is the whole score."""

    def build(self, *, num_heads: int, d_head: int) -> ScoreTerm:
        return Additive(num_heads=num_heads, d_head=d_head)
