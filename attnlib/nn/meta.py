"""Models without weights: modules on the meta device, where a draw of random numbers is no work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

DRAWS = frozenset({"normal_", "uniform_", "trunc_normal_", "kaiming_uniform_", "xavier_uniform_", "xavier_normal_"})


class _Undrawn(TorchFunctionMode):
    """Skips random fills: on the meta device they change nothing, but load torch's tracing machinery (seconds)."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if getattr(func, "__name__", "") in DRAWS:
            tensor = args[0] if args else given.get("tensor")
            if isinstance(tensor, torch.Tensor) and tensor.is_meta:
                return tensor
        return func(*args, **given)


@contextmanager
def on_meta() -> Iterator[None]:
    """Modules built in here have shapes and dtypes and no values, and cost milliseconds."""
    with torch.device("meta"), _Undrawn():
        yield
