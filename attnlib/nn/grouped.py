"""Rows of one matrix times one of several matrices each: what experts cost, and no more, in static shapes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def grouped_linear(x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """x [S, I], weight [E, O, I] -> [S, O]: the first counts[0] rows times weight[0]^T, the next counts[1] ..., S in all.

    Differentiable as often as wanted; under autocast in its dtype, as any linear map. One operation to a tracer.
    """
    device = x.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        x, weight = x.to(dtype), weight.to(dtype)
    if not _known:
        make_known()
    return torch.ops.attnlib.grouped_linear(x, weight, counts)  # type: ignore[no-any-return]


def _forward(x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    if _fused(x, weight):
        return F.grouped_mm(x, weight.transpose(-2, -1), offs=counts.cumsum(0, dtype=torch.int32))
    out = x.new_empty(x.shape[0], weight.shape[1])
    for matrix, rows, into in zip(weight, x.split(counts.tolist()), out.split(counts.tolist())):
        torch.mm(rows, matrix.t(), out=into)
    return out


def _fused(x: Tensor, weight: Tensor) -> bool:
    """Whether torch has one kernel for it, which also need not know the counts on the host."""
    whole = all(size % 8 == 0 for size in weight.shape[1:])
    return x.is_cuda and x.dtype == torch.bfloat16 and whole and x.is_contiguous() and hasattr(F, "grouped_mm")


def _outer(y: Tensor, x: Tensor, counts: Tensor) -> Tensor:
    """y [S, O], x [S, I] -> [E, O, I]: y^T x of each group, zero where it is empty."""
    out = x.new_empty(counts.shape[0], y.shape[1], x.shape[1])
    for into, left, right in zip(out, y.split(counts.tolist()), x.split(counts.tolist())):
        torch.mm(left.t(), right, out=into)
    return out


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _linear_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    x, weight, counts = ctx.saved_tensors
    grad = grad.contiguous()
    of_x = torch.ops.attnlib.grouped_linear(grad, weight.transpose(1, 2), counts) if ctx.needs_input_grad[0] else None
    of_weight = torch.ops.attnlib.grouped_outer(grad, x, counts) if ctx.needs_input_grad[1] else None
    return of_x, of_weight, None


def _outer_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    y, x, counts = ctx.saved_tensors
    of_y = torch.ops.attnlib.grouped_linear(x, grad, counts)
    return of_y, torch.ops.attnlib.grouped_linear(y, grad.transpose(1, 2), counts), None


_known: list[Any] = []


def make_known() -> None:
    """Tell torch of the operations, their shapes, gradients and costs: once, before a tracer meets them."""
    from torch.utils.flop_counter import register_flop_formula

    if _known:
        return
    linear = torch.library.custom_op(
        "attnlib::grouped_linear", _forward, mutates_args=(), schema="(Tensor x, Tensor weight, Tensor counts) -> Tensor"
    )
    outer = torch.library.custom_op(
        "attnlib::grouped_outer", _outer, mutates_args=(), schema="(Tensor y, Tensor x, Tensor counts) -> Tensor"
    )
    _known.extend((linear, outer))
    linear.register_fake(lambda x, weight, counts: x.new_empty(x.shape[0], weight.shape[1]))
    outer.register_fake(lambda y, x, counts: x.new_empty(counts.shape[0], y.shape[1], x.shape[1]))
    linear.register_autograd(_linear_backward, setup_context=_keep)
    outer.register_autograd(_outer_backward, setup_context=_keep)

    @register_flop_formula(torch.ops.attnlib.grouped_linear)
    def _(x: Any, weight: Any, counts: Any, **kwargs: Any) -> int:
        return int(2 * x[0] * weight[1] * weight[2])

    @register_flop_formula(torch.ops.attnlib.grouped_outer)
    def _(y: Any, x: Any, counts: Any, **kwargs: Any) -> int:
        return int(2 * x[0] * x[1] * y[1])
