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

    Near equals would be told apart by the moment, and processes must agree to the bit: so some hundred rows go through it
    unless it is slower, and more only where torch's product takes far longer, on AMD twice as long and on Intel as long.
    """
    if torch.compiler.is_compiling():  # asked first: a graph must not hang on the number of rows
        return False
    rows = x.numel() // x.shape[-1] if x.shape[-1] else 0
    if (rows < MANY and (rows != 1 or activation is not None)) or not _suits(x, weight):
        return False
    if rows == 1:
        about, most = 1, CLEARLY
    elif activation is not None or (rows <= CACHED and weight.numel() >= BROAD):
        about, most = min(1 << (rows - 1).bit_length(), CACHED), NO_SLOWER
    else:
        about, most = 2 * CACHED, BY_MUCH
    return onednn_takes(about, torch.get_num_threads(), activation) < most


def _suits(x: Tensor, weight: Tensor) -> bool:
    """Static facts."""
    if weight.numel() < LARGE or torch.is_grad_enabled():
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
    if rows == 1:
        shapes = [(3072, 768)] * 4  # beyond the caches, as in decoding
    elif rows > CACHED:
        shapes = [(768, 768)]
    else:
        shapes = [(3072, 768)] if activation else [(3072, 768), (768, 3072)]
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
    ours, theirs = (min(times) for times in zip(*turns, strict=True))
    return ours / theirs if theirs else math.inf  # 0: a clock too coarse to tell
