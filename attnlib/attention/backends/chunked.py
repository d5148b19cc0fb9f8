"""Row blocks of queries, each recomputed in the backward: any rule, memory linear in the tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from attnlib.attention.backends.protocol import AttentionCall, Backend
from attnlib.attention.backends.reference import (
    Bound,
    edges_of,
    exact,
    group,
    mix,
    normalise,
    products,
    softmax_in_place,
    ungroup,
)
from attnlib.attention.visibility import Columns


class Chunked(Backend):
    """The reference, a block of queries at a time, over the keys those can see; nothing of size Q*K is kept.

    A row's scores are whole in its block, so any normaliser that is a function of a row fits. No double backward.
    """

    name = "chunked"
    automatic = 50
    tile = 1 << 19  # scores of a block and key head that stay in a cache
    crossover = 1 << 20  # Q*K above which a materialised bias costs more than recomputing

    def refuses(self, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall) -> str | None:
        if torch.compiler.is_compiling() and call.dropout:
            return "a traced graph cannot draw a block's dropout twice alike"
        return None

    def suits(self, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall) -> bool:
        return q.shape[2] * k.shape[2] >= self.crossover

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall) -> Tensor:
        return RowBlocks(call, q, k, self.blocks(q, k, call)).run(q, k, v)

    def blocks(self, q: Tensor, k: Tensor, call: AttentionCall) -> list[tuple[slice, Columns]]:
        """Blocks of queries, each with the keys it looks at."""
        size = max(16, min(64, self.tile // max(k.shape[2], 1)))
        rows = [slice(first, min(first + size, q.shape[2])) for first in range(0, q.shape[2], size)]
        return [(part, call.visibility.keys_of(part)) for part in rows]


class RowBlocks:
    """How one call is cut, blocks of rows and the columns each looks at, and what a block needs again in the backward."""

    def __init__(self, call: AttentionCall, q: Tensor, k: Tensor, blocks: Sequence[tuple[slice, Columns]]) -> None:
        self.call, self.blocks = call, blocks
        self.bound: Bound = call.bind(q, k)
        self.seed = int(torch.randint(2**62, ())) if call.dropout else 0

    def __iter__(self) -> Iterator[tuple[slice, Columns]]:
        return iter(self.blocks)

    def run(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """[B, H, Q, Dv]."""
        with exact(q.device):
            if torch.compiler.is_compiling():
                return _traced(self, q, k, v)
            flat = [tensor for tensors in self.bound for tensor in tensors]
            return _RowBlocks.apply(self, q, k, v, *flat, *self.call.rule.normaliser.parameters())  # type: ignore[no-any-return, no-untyped-call]

    def weights(self, scores: Tensor, bound: Bound, rows: slice, keys: Columns) -> Tensor:
        """Weights of a block after dropout, the same draw whenever asked."""
        found = normalise(scores, self.call, bound, rows, keys)
        if not self.call.dropout:
            return found
        generator = torch.Generator(found.device).manual_seed(self.seed + rows.start)
        keep = torch.empty_like(found).bernoulli_(1 - self.call.dropout, generator=generator)
        return found * keep / (1 - self.call.dropout)


class _RowBlocks(torch.autograd.Function):
    """Saves q, k, v and the tensors of the terms; a block's weights exist only while it is worked on."""

    @staticmethod
    def forward(ctx: Any, blocks: RowBlocks, q: Tensor, k: Tensor, v: Tensor, *others: Tensor) -> Tensor:
        out = v.new_zeros(*q.shape[:3], v.shape[3])
        for rows, keys in blocks:
            scores = products(q[:, :, rows], k[:, :, keys], blocks.call.rule.scale)
            out[:, :, rows] = mix(blocks.weights(scores, blocks.bound, rows, keys), v[:, :, keys])
        ctx.blocks = blocks
        ctx.save_for_backward(q, k, v, *others)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        blocks: RowBlocks = ctx.blocks
        q, k, v, *others = ctx.saved_tensors
        count = sum(map(len, blocks.bound))
        leaves = [t.detach().requires_grad_(t.requires_grad) for t in others[:count]]
        learned = [*leaves, *others[count:]]
        wanted = [t for t in learned if t.requires_grad]
        bound, at = [], 0
        for tensors in blocks.bound:
            bound.append(tuple(leaves[at : at + len(tensors)]))
            at += len(tensors)
        dtype = torch.promote_types(q.dtype, torch.float32)
        dq = torch.empty_like(q, dtype=dtype)
        dk, dv = (torch.zeros(t.shape[0] * t.shape[1], *t.shape[2:], dtype=dtype, device=t.device) for t in (k, v))
        sums = [torch.zeros_like(t) for t in wanted]
        with exact(q.device):
            for rows, keys in blocks:
                _block_backward(blocks, (q, k, v, grad), (dq, dk, dv), bound, wanted, sums, rows, keys)
        given = iter(sums)
        rest = [next(given) if t.requires_grad else None for t in learned]
        return None, dq.to(q.dtype), dk.view(k.shape).to(k.dtype), dv.view(v.shape).to(v.dtype), *rest


def _block_backward(
    blocks: RowBlocks,
    inputs: tuple[Tensor, Tensor, Tensor, Tensor],
    grads: tuple[Tensor, Tensor, Tensor],
    bound: Bound,
    wanted: list[Tensor],
    sums: list[Tensor],
    rows: slice,
    keys: Columns,
) -> None:
    """Adds what one block of queries gives to the gradients; key sides are added in place, once a block."""
    q, k, v, grad = inputs
    dq, dk, dv = grads
    groups, scale, dtype = k.shape[1], blocks.call.rule.scale, dq.dtype
    q_rows, k_part, v_part, d_out = q[:, :, rows], k[:, :, keys], v[:, :, keys], grad[:, :, rows].to(dtype)
    d_grouped = group(d_out, groups)
    d_weights = ungroup(d_grouped @ v_part.to(dtype).transpose(-1, -2), q.shape[1])
    scores = products(q_rows, k_part, scale)
    probabilities, d_found, found = _through(blocks, scores, d_weights, bound, wanted, rows, keys)
    for total, part in zip(sums, found):
        if part is not None:
            total += part
    d_scores = group(d_found, groups)
    dq[:, :, rows] = ungroup((d_scores @ k_part.to(dtype)).mul_(scale), q.shape[1])
    turned = d_scores.flatten(0, 1).transpose(-1, -2)  # [B*G, K, H/G * Q]
    _add(dk, keys, turned, group(q_rows, groups).flatten(0, 1).to(dtype), scale)
    _add(dv, keys, group(probabilities.detach(), groups).flatten(0, 1).transpose(-1, -2), d_grouped.flatten(0, 1))


def _through(
    blocks: RowBlocks, scores: Tensor, grad: Tensor, bound: Bound, wanted: list[Tensor], rows: slice, keys: Columns
) -> tuple[Tensor, Tensor, Sequence[Tensor | None]]:
    """A block's weights, and from their gradient that of its scores and of what is learned; the scores are used up."""
    edges = None if blocks.call.dropout else edges_of(blocks.call, rows, keys)
    if edges is None:
        scores.requires_grad_()
        with torch.enable_grad():
            weights = blocks.weights(scores, bound, rows, keys)
        d_scores, *found = torch.autograd.grad(weights, [scores, *wanted], grad, allow_unused=True)
        return weights, d_scores, found
    with torch.enable_grad():
        added = blocks.call.added(bound, rows, keys)
    weights = softmax_in_place(scores, None if added is None else added.detach(), blocks.call, rows, keys, edges)
    d_scores = torch.ops.aten._softmax_backward_data(grad, weights, -1, weights.dtype)
    if added is None or not added.requires_grad:
        return weights, d_scores, []
    return weights, d_scores, torch.autograd.grad(added, wanted, d_scores.sum_to_size(added.shape), allow_unused=True)


def _add(total: Tensor, keys: Columns, a: Tensor, b: Tensor, scale: float = 1.0) -> None:
    """total[:, keys] += scale * a @ b, in place."""
    if isinstance(keys, slice):
        total[:, keys].baddbmm_(a, b, alpha=scale)
    else:
        total.index_add_(1, keys, a @ b, alpha=scale)


def _traced(blocks: RowBlocks, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same blocks under torch's own checkpointing, which a tracer understands."""

    def block(rows: slice, keys: Columns, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = products(q[:, :, rows], k[:, :, keys], blocks.call.rule.scale)
        return mix(blocks.weights(scores, blocks.bound, rows, keys), v[:, :, keys])

    _ = blocks.call.visibility.unmasked  # settled here: nothing outside may change within a checkpoint
    if torch.is_grad_enabled():
        parts = [checkpoint(block, rows, keys, q, k, v, use_reentrant=False) for rows, keys in blocks]
    else:
        parts = [block(rows, keys, q, k, v) for rows, keys in blocks]
    return torch.cat(parts, 2) if parts else v.new_zeros(*q.shape[:3], v.shape[3])
