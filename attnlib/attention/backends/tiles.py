"""Only the blocks of queries and keys that the mask leaves: any pattern, any rule, work as large as the pattern."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from attnlib.attention.backends.chunked import RowBlocks
from attnlib.attention.backends.protocol import AttentionCall, Backend
from attnlib.attention.backends.reference import exact
from attnlib.attention.backends.sdpa import fused
from attnlib.attention.tiling import Band, Tiling, columns_by_rows, cost, tiling

GATHERED = 1 << 20  # elements of keys that are worked on at once: little enough to be used again from a cache


class Tiles(Backend):
    """Reads where the mask sees anything (see `tiling`) and runs those blocks alone.

    Under a plain softmax, blocks that see equally many columns are one batch of torch's fused kernel: views where columns
    follow one another (windows, chunks), gathered else, and gathered again in the backward instead of kept. Other rules, and
    dropout, go row block by row block, as `chunked` does, over the columns that are seen. No double backward.
    """

    name = "tiles"
    automatic = 10
    fewest = 512  # queries and keys below which one call of a fused kernel is as fast

    def refuses(self, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall) -> str | None:
        if torch.compiler.is_compiling():
            return "a traced graph cannot ask which blocks are empty"
        if call.visibility.only is not None or 0 in (q.shape[0], q.shape[2], k.shape[2]):
            return "tiles wants all heads, and tokens"
        return None

    def suits(self, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall) -> bool:
        if min(q.shape[2], k.shape[2]) < self.fewest or call.visibility.is_causal or call.visibility.unmasked:
            return False
        part = cost(call.visibility)
        return part is not None and part * (1.3 if not call.parts else 3.0) < 0.9

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall) -> Tensor:
        if call.parts or call.dropout:
            return RowBlocks(call, q, k, columns_by_rows(call.visibility, 128)).run(q, k, v)
        with exact(q.device):
            return _run(tiling(call.visibility, k.shape[1]), q.to(v.dtype), k.to(v.dtype), v, call)


def _run(plan: Tiling, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall) -> Tensor:
    batch, heads, tokens = q.shape[:3]
    by_row, by_group = plan.plans[0] > 1, plan.plans[1] > 1
    share = heads // k.shape[1]
    # [plans, N, T, D]: what shares a plan lies side by side
    q, k, v = (_together(t, s, by_row, by_group) for t, s in ((q, share), (k, 1), (v, 1)))
    q = F.pad(q, (0, 0, 0, plan.blocks * plan.rows - tokens)) if tokens % plan.rows else q
    q = q.unflatten(2, (plan.blocks, plan.rows)).transpose(1, 2)  # [plans, blocks, N, R, D]
    out = _Units.apply(plan, call, q, k, v)  # type: ignore[no-untyped-call]  # [plans, blocks * R, N, Dv]
    out = out[:, :tokens].transpose(1, 2)
    if by_group and not by_row:
        out = out.unflatten(1, (batch, share)).transpose(0, 1)
    return out.reshape(batch, heads, tokens, v.shape[3])  # type: ignore[no-any-return]


def _together(t: Tensor, share: int, by_row: bool, by_group: bool) -> Tensor:
    """[B, G * share, T, D] -> [plans, N, T, D]."""
    if not by_group:
        return t if by_row else t.reshape(1, -1, *t.shape[2:])
    x = t.view(t.shape[0], -1, share, *t.shape[2:])  # [B, G, share, T, D]
    return x.flatten(0, 1) if by_row else x.transpose(0, 1).flatten(1, 2)


def _slabs(plan: Tiling, width: int) -> Iterator[Band]:
    """The bands, in parts whose columns, or the gradients of those, are no more than so much at once."""
    for band in plan.bands:
        size = max(1, GATHERED // (band.columns.shape[1] * width))
        if len(band.block) <= size:
            yield band
            continue
        cuts = zip(band.plan.split(size), band.block.split(size), band.columns.split(size))
        seen = band.seen
        many = [seen] * len(band.block) if seen is None or len(seen) == 1 else seen.split(size)
        for number, (cut, part) in enumerate(zip(cuts, many)):
            fold = None if band.fold is None else (band.fold[0] + number * size * band.fold[1], band.fold[1])
            yield Band(*cut, part, fold)


class _Units(torch.autograd.Function):
    """q [plans, blocks, N, R, D], k and v [plans, N', T, D] -> [plans, blocks * R, N, Dv], band by band."""

    @staticmethod
    def forward(ctx: Any, plan: Tiling, call: AttentionCall, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ctx.plan, ctx.call, ctx.notes = plan, call, []
        shape = (*q.shape[:2], plan.rows, q.shape[2], v.shape[3])
        out = v.new_empty(shape) if plan.complete else v.new_zeros(shape)
        sides = _Columns(k), _Columns(v)
        for band in _slabs(plan, k.shape[1] * k.shape[3]):
            keys, values = (t(band) for t in sides)
            found, note = _forward(_queries(q, band), keys, values, _mask(band, q), call)
            ctx.notes.append(note)
            _place(out, band, found.transpose(1, 2))
        ctx.save_for_backward(q, k, v, out)
        return out.flatten(1, 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        plan: Tiling = ctx.plan
        q, k, v, out = ctx.saved_tensors
        grad = grad.unflatten(1, (plan.blocks, plan.rows)).transpose(2, 3)
        dtype = torch.promote_types(q.dtype, torch.float32)
        dq = q.new_zeros(*q.shape[:2], plan.rows, q.shape[2], q.shape[4])
        dk, dv = (t.new_zeros(t.shape[0], t.shape[2], t.shape[1], t.shape[3], dtype=dtype) for t in (k, v))
        sides = _Columns(k), _Columns(v)
        for band, note in zip(_slabs(plan, k.shape[1] * k.shape[3]), ctx.notes):
            units = [_queries(q, band), *(t(band) for t in sides)]
            ours = _queries(out.transpose(2, 3), band)
            parts = _backward(_queries(grad, band), units, ours, note, _mask(band, q), ctx.call)
            _place(dq, band, parts[0].transpose(1, 2))
            _add(dk, band, parts[1].transpose(1, 2))
            _add(dv, band, parts[2].transpose(1, 2))
        return None, None, dq.transpose(2, 3), dk.transpose(1, 2).to(k.dtype), dv.transpose(1, 2).to(v.dtype)


def _queries(q: Tensor, band: Band) -> Tensor:
    """[n, N, R, D]: the blocks of a band."""
    if band.fold is not None:
        first = int(band.block[0])
        return q[0, first : first + len(band.block)]
    return q[band.plan, band.block]


class _Columns:
    """t [plans, N, T, D]: of a band the columns of each unit [n, N, C, D], a view where they follow one another."""

    def __init__(self, t: Tensor) -> None:
        self.t = t
        self.flat: Tensor | None = None

    def __call__(self, band: Band) -> Tensor:
        plans, n, tokens, width = self.t.shape
        count = band.columns.shape[1]
        if band.fold is not None:
            first, shift = band.fold
            part = self.t[0, :, first : first + shift * (len(band.block) - 1) + count]
            return part.unfold(1, count, shift).permute(1, 0, 3, 2)
        if self.flat is None:  # laid out once for all bands
            self.flat = self.t.transpose(1, 2).reshape(plans * tokens, n * width)
        found = self.flat.index_select(0, (band.plan[:, None] * tokens + band.columns).flatten())
        return found.view(-1, count, n, width).transpose(1, 2)


def _mask(band: Band, q: Tensor) -> Tensor | None:
    """[n|1, N|1, R, C] bool, spread over the rows of the batch where heads see unlike and rows alike."""
    seen = band.seen
    return seen if seen is None or seen.shape[1] == 1 else seen.repeat(1, q.shape[2] // seen.shape[1], 1, 1)


def _place(total: Tensor, band: Band, part: Tensor) -> None:
    """total [plans, blocks, ...] takes the units of a band."""
    if band.fold is not None:
        first = int(band.block[0])
        total[0, first : first + len(band.block)] = part
    else:
        total[band.plan, band.block] = part.to(total.dtype)


def _add(total: Tensor, band: Band, part: Tensor) -> None:
    """total [plans, T, N, D] += part [n, C, N, D], each column at its place."""
    tokens, count = total.shape[1], part.shape[1]
    if band.fold is None:
        at = (band.plan[:, None] * tokens + band.columns).flatten()
        total.view(-1, *total.shape[2:]).index_add_(0, at, part.flatten(0, 1).to(total.dtype))
        return
    (first, shift), units = band.fold, len(band.block)
    for begin in range(0, count, shift):
        size = min(shift, count - begin)
        here = total[0, first + begin : first + begin + shift * (units - 1) + size]
        here.unfold(0, size, shift).permute(0, 3, 1, 2).add_(part[:, begin : begin + size])


def _forward(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, call: AttentionCall) -> tuple[Tensor, Tensor | None]:
    """[n, N, R, Dv], and what the backward of torch's CPU kernel wants to know."""
    if _knows(q, v):
        found, note = _flash(q, k, v, attn_mask=_added(seen, q), scale=call.rule.scale)
        return found, note
    if seen is None or not q.is_cuda:
        return fused(q, k, v, seen, call), None
    blind = ~seen.any(-1, keepdim=True)  # fused CUDA kernels may give NaN where a row sees nothing
    return fused(q, k, v, seen | blind, call).masked_fill(blind, 0.0), None


def _backward(
    grad: Tensor, units: list[Tensor], out: Tensor, note: Tensor | None, seen: Tensor | None, call: AttentionCall
) -> tuple[Tensor, ...]:
    if note is not None:
        mask = _added(seen, grad)
        return _flash_backward(grad, *units, out, note, 0.0, False, attn_mask=mask, scale=call.rule.scale)  # type: ignore[no-any-return]
    with torch.enable_grad():
        leaves = [t.detach().requires_grad_() for t in units]
        found, _ = _forward(leaves[0], leaves[1], leaves[2], seen, call)
    return torch.autograd.grad(found, leaves, grad)


_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def _knows(q: Tensor, v: Tensor) -> bool:
    """Whether torch's CPU kernel takes it as it is: then its backward need not compute the forward again."""
    return q.device.type == "cpu" and q.dtype in (torch.float32, torch.bfloat16) and q.shape[3] == v.shape[3]


def _added(seen: Tensor | None, like: Tensor) -> Tensor | None:
    """0 where seen, -inf else."""
    return None if seen is None else like.new_zeros(seen.shape).masked_fill_(~seen, -torch.inf)
