"""Linear maps: torch's own, with the better of two kernels where large matrices meet one row or many on a CPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LARGE = 1 << 17  # elements of a weight below which the choice is not worth a look
BROAD = 1 << 20  # elements below which the kernels of many rows without an activation are equals
MANY = 64  # rows from which a product is bound by arithmetic, as a decode step's is by memory
MOST = 256  # rows beyond which oneDNN gains nothing but the activation
GELU = {"gelu": "none", "gelu_tanh": "tanh"}  # activations that oneDNN computes with a product, as it names them


class Linear(nn.Linear):
    """x W^T + b, W [out, in]."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.linear. In float32 on a CPU without gradients, one row or some hundred go through oneDNN where it is faster here."""
    if _wins(x, weight):
        return _onednn(x, weight, bias)
    return F.linear(x, weight, bias)


def linear_gelu(layer: nn.Module, x: Tensor, activation: str) -> Tensor | None:
    """gelu(layer(x)) as one product of oneDNN; None where two steps are faster, or somebody looks between them."""
    if activation not in GELU or type(layer) is not Linear or layer._forward_hooks or layer._forward_pre_hooks:
        return None
    return _onednn(x, layer.weight, layer.bias, activation) if _wins(x, layer.weight, activation) else None


def _wins(x: Tensor, weight: Tensor, activation: str | None = None) -> bool:
    """Whether oneDNN is to multiply: static facts, and once what a probe found for about so many rows."""
    rows = x.numel() // x.shape[-1] if x.shape[-1] else 0
    if activation is not None:
        sized = rows >= MANY
    else:
        sized = rows == 1 or (MANY <= rows <= MOST and weight.numel() >= BROAD)
    if not sized or not _suits(x, weight):
        return False
    return onednn_is_faster(min(1 << (rows - 1).bit_length(), MOST), torch.get_num_threads(), activation)


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
def onednn_is_faster(rows: int, threads: int, activation: str | None = None) -> bool:
    """Whether oneDNN multiplies one row by large matrices clearly faster than torch, or many as fast: measured, once.

    With an activation: whether both in one kernel are as fast as torch's two. Between equals the answer must not hang on
    the moment, so that processes agree to the bit: many rows go through oneDNN unless it is clearly slower.
    """
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    shapes = [(3072, 768)]
    if activation is None:
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
    margin = 0.95 if rows == 1 else 1.05
    return min(ours for ours, _ in turns) < margin * min(theirs for _, theirs in turns)
