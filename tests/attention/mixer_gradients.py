"""Gradients of a mixer, its input's and its parameters', against differences."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attnlib.layout import Layout


def gradients_hold(m: nn.Module, x: Tensor, layout: Layout) -> bool:
    """In float64, x [B, T, M] and all that is learned."""
    x = x.requires_grad_()
    names, values = zip(*((name, p.detach().requires_grad_()) for name, p in m.named_parameters()))

    def f(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(m, dict(zip(names, values)), (x, layout))  # type: ignore[no-any-return]

    return torch.autograd.gradcheck(f, (x, *values), fast_mode=True)
