"""Linear maps: torch's own, with the better of two kernels where a single row meets a large matrix on a CPU."""

from __future__ import annotations

import time
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LARGE = 1 << 18  # elements of a weight below which the choice is not worth a look


class Linear(nn.Linear):
    """x W^T + b, W [out, in]."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.linear. One row in float32 on a CPU (a decode step) goes through oneDNN where that is faster on this machine."""
    if x.numel() == x.shape[-1] and _one_row(x, weight):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")  # type: ignore[no-any-return]
    return F.linear(x, weight, bias)


def _one_row(x: Tensor, weight: Tensor) -> bool:
    """Static facts, and a probe of the machine once a process."""
    if weight.numel() < LARGE or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    plain = type(weight) in (Tensor, nn.Parameter) and weight.device.type == "cpu" and weight.is_contiguous()
    if not plain or x.dtype != torch.float32 or weight.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return False
    return onednn_is_faster(torch.get_num_threads())


@cache
def onednn_is_faster(threads: int) -> bool:
    """Whether oneDNN multiplies one row by a large matrix at least 5% faster than torch's default, measured here and now."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    weights = [torch.zeros(3072, 768) for _ in range(4)]  # beyond the caches, as in a decode step
    x = torch.zeros(1, 768)

    def spent(one: int) -> float:
        best = float("inf")
        for _ in range(5):
            begun = time.perf_counter()
            for weight in weights:
                if one:
                    torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
                else:
                    F.linear(x, weight)
            best = min(best, time.perf_counter() - begun)
        return best

    return spent(1) < 0.95 * spent(0)
