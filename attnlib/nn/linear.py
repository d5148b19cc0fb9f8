"""Linear maps: torch's own, with the better of two kernels where large matrices meet one row or many on a CPU."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LARGE = 1 << 17  # elements of a weight below which the choice is not worth a look
MANY = 64  # rows from which a product is bound by arithmetic, as a decode step's is by memory
CACHED, BROAD = 256, 1 << 20  # rows at most and elements at least of products where oneDNN may be the better by a little
CLEARLY, NO_SLOWER, BY_MUCH = 0.95, 1.05, 0.8  # oneDNN's time over torch's, at most
GELU = {"gelu": "none", "gelu_tanh": "tanh"}  # activations that oneDNN computes with a product, as it names them


class Linear(nn.Linear):
    """x W^T + b, W [out, in]."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.linear. In float32 on a CPU, without gradients, through oneDNN where this processor is faster by it."""
    return _onednn(x, weight, bias) if _wins(x, weight) else F.linear(x, weight, bias)


def linear_gelu(layer: nn.Module, x: Tensor, activation: str) -> Tensor | None:
    """gelu(layer(x)) as one product of oneDNN; None where two steps are faster, or somebody looks between them."""
    if activation not in GELU or type(layer) is not Linear or layer._forward_hooks or layer._forward_pre_hooks:
        return None
    return _onednn(x, layer.weight, layer.bias, activation) if _wins(x, layer.weight, activation) else None


def _wins(x: Tensor, weight: Tensor, activation: str | None = None) -> bool:
    """Whether oneDNN is to multiply: static facts, and once what a probe found for about so many rows.

    Where both are near equals the answer must not hang on the moment, so that processes agree to the bit: there the limits
    lie far from what was measured. On AMD torch's products take twice the time of oneDNN's, on Intel the same.
    """
    rows = x.numel() // x.shape[-1] if x.shape[-1] else 0
    about = min(1 << (rows - 1).bit_length(), CACHED)
    if rows == 1 and activation is None:
        most = CLEARLY
    elif rows < MANY:
        return False
    elif activation is not None or (rows <= CACHED and weight.numel() >= BROAD):
        most = NO_SLOWER
    else:
        about, most = 2 * CACHED, BY_MUCH
    return _suits(x, weight) and onednn_takes(about, torch.get_num_threads(), activation) < most


def _suits(x: Tensor, weight: Tensor) -> bool:
    """Static facts."""
    if weight.numel() < LARGE or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    plain = type(weight) in (Tensor, nn.Parameter) and weight.device.type == "cpu" and weight.is_contiguous()
    return plain and x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None = None) -> Tensor:
    kind, how = ("none", "") if activation is None else ("gelu", GELU[activation])
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, kind, [], how)  # type: ignore[no-any-return]


@cache
def onednn_takes(rows: int, threads: int, activation: str | None = None) -> float:
    """oneDNN's time over torch's for a product of so many rows, with its activation in one kernel: measured, once."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return math.inf
    shapes = [(3072, 768)]
    if rows > CACHED:
        shapes = [(768, 768)]
    elif activation is None:
        shapes = shapes * 4 if rows == 1 else [*shapes, (768, 3072)]  # of one row beyond the caches, as in decoding
    work = [(torch.zeros(rows, shape[1]), torch.zeros(shape), torch.zeros(shape[0])) for shape in shapes]

    def torchs(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y = F.linear(x, weight, bias)
        return y if activation is None else F.gelu(y, approximate=GELU[activation])

    def spent(multiply: Callable[[Tensor, Tensor, Tensor], Tensor]) -> float:
        begun = time.process_time()  # of all threads: what else the machine does is not counted
        for each in work:
            multiply(*each)
        return time.process_time() - begun

    # in turns, so that a slow moment of the machine meets both; the least of each counts
    turns = [(spent(lambda x, w, b: _onednn(x, w, b, activation)), spent(torchs)) for _ in range(4)]
    return min(ours for ours, _ in turns) / min(theirs for _, theirs in turns)
