"""Linear maps: torch's own, with the better of two kernels where large matrices meet one row or many on a CPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LARGE = 1 << 17  # elements of a weight below which the choice is not worth a look
MANY = 64  # rows from which a product is bound by arithmetic, as a decode step's is by memory


class Linear(nn.Linear):
    """x W^T + b, W [out, in]."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.linear. One row or many in float32 on a CPU, without gradients, go through oneDNN where that is faster here."""
    rows = x.numel() // x.shape[-1] if x.shape[-1] else 0
    if (rows == 1 or rows >= MANY) and _suits(x, weight) and onednn_is_faster(min(rows, MANY), torch.get_num_threads()):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")  # type: ignore[no-any-return]
    return F.linear(x, weight, bias)


def _suits(x: Tensor, weight: Tensor) -> bool:
    """Static facts."""
    if weight.numel() < LARGE or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    plain = type(weight) in (Tensor, nn.Parameter) and weight.device.type == "cpu" and weight.is_contiguous()
    return plain and x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


@cache
def onednn_is_faster(rows: int, threads: int) -> bool:
    """Whether oneDNN multiplies so many rows by large matrices clearly faster than torch does: measured, once."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    weights = [torch.zeros(3072, 768) for _ in range(4 if rows == 1 else 1)]  # of one row beyond the caches, as in decoding
    x = torch.zeros(1 if rows == 1 else 256, 768)

    def spent(multiply: Callable[[Tensor], Tensor]) -> float:
        best = float("inf")
        for _ in range(5):
            begun = time.perf_counter()
            for weight in weights:
                multiply(weight)
            best = min(best, time.perf_counter() - begun)
        return best

    margin = 0.95 if rows == 1 else 0.8  # where it wins at all with many rows, it wins by much
    ours = spent(lambda weight: torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], ""))
    return ours < margin * spent(lambda weight: F.linear(x, weight))
