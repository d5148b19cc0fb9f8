"""Two matrix products and a softmax in the inputs' own dtype: what a CPU does best with short texts in half precision."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from attnlib.attention.backends.protocol import AttentionCall, Backend
from attnlib.attention.backends.reference import group, ungroup
from attnlib.attention.backends.sdpa import KNOWS


class Matmul(Backend):
    """Materialises the weights in half precision. torch's fused CPU kernel is slower there in the backward.

    Measured: 32 x 4 heads x 128 tokens x 32 wide, forward and backward, 1 thread of an EPYC with avx512_bf16, torch
    2.13: 7 ms against 28 (fused bfloat16) and 15 (fused float32). Capped scores, which no fused kernel knows, are rounded
    after each step, in the order of the models that were trained so; only their softmax is in fp32.
    """

    name = "matmul"
    automatic = 30
    longest = 512 * 512

    def refuses(self, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall) -> str | None:
        if unknown := call.parts - KNOWS - {"softcap"}:
            return f"matmul does not know {', '.join(sorted(unknown))}"
        if call.rule.softcap is not None and call.terms:
            return "matmul does not know terms under a cap"
        if not all(term.bounded for term in call.terms):
            return "matmul does not know terms that may say -inf"
        return None

    def suits(self, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall) -> bool:
        short = q.shape[2] * k.shape[2] <= self.longest
        wanted = torch.is_grad_enabled() or call.rule.softcap is not None
        return short and v.dtype == torch.bfloat16 and v.device.type == "cpu" and wanted

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall) -> Tensor:
        dtype, sight, cap = v.dtype, call.visibility, call.rule.softcap
        grouped, keys, mask = group(q.to(dtype), k.shape[1]), k.to(dtype).transpose(-1, -2), _mask(q, k, call, dtype)
        if cap is None:
            scores, exact = ungroup((grouped * call.rule.scale) @ keys, q.shape[1]), dtype
        else:
            scores = torch.tanh(ungroup(grouped @ keys, q.shape[1]) * call.rule.scale / cap) * cap
            exact = torch.promote_types(dtype, torch.float32)
        weights = (scores if mask is None else scores + mask).softmax(-1, dtype=exact)
        if call.dropout:
            weights = F.dropout(weights, call.dropout)
        out = ungroup(group(weights.to(dtype), v.shape[1]) @ v, q.shape[1])
        blind = None if sight.is_causal else sight.sees_nothing()
        return out if blind is None else out.masked_fill(blind, 0.0)


def _mask(q: Tensor, k: Tensor, call: AttentionCall, dtype: torch.dtype) -> Tensor | None:
    """[B|1, H|1, Q, K] terms and mask as one addend, finite, so that a row that sees nothing stays finite too."""
    sight = call.visibility
    key = ("matmul", *map(id, call.terms), dtype)
    if key in sight.memo:
        return sight.memo[key]  # type: ignore[no-any-return]
    bias, seen = call.bias(q, k), sight.dense()
    if seen is not None:
        lowest = torch.finfo(dtype).min
        zero = torch.zeros((), dtype=dtype, device=q.device) if bias is None else bias.to(dtype)
        bias = torch.where(seen, zero, lowest)
    mask = None if bias is None else bias.to(dtype)
    if all(term.static for term in call.terms):
        sight.memo[key] = mask
    return mask
