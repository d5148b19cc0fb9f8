"""Arithmetic that wants all the digits there are: sums over a text."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def unmixed(x: Tensor) -> AbstractContextManager[object]:
    """Inside, autocast lets matrix products be what their factors are."""
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def exact(x: Tensor) -> Tensor:
    """x in float32, or in float64 where it is so."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
