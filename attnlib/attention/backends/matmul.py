"""Two matrix products and a softmax in the inputs' own dtype: what a CPU does best with short texts of some kinds."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from attnlib.attention.backends.protocol import AttentionCall, Backend
from attnlib.attention.backends.reference import exact, group, ungroup
from attnlib.attention.backends.sdpa import KNOWS


class Matmul(Backend):
    """Materialises the weights: in half precision, where torch's fused CPU kernel is slower in the backward, and of one
    text of some hundred tokens in float32 without gradients.

    Measured: 32 x 4 heads x 128 tokens x 32 wide, forward and backward, 1 thread of an EPYC with avx512_bf16, torch
    2.13: 7 ms against 28 (fused bfloat16) and 15 (fused float32). Capped scores, which no fused kernel knows, are rounded
    after each step, in the order of the models that were trained so; only their softmax is in fp32. One text of 96 to 160
    tokens in float32, 8 heads or more: 0.7 to 0.9 of the fused kernel's time with 2 threads of a Xeon, the same with one;
    shorter, longer and several texts were slower.
    """

    name = "matmul"
    automatic = 30
    longest = 512 * 512  # Q*K
    single = range(96, 161)  # tokens of one text in float32

    def refuses(self, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall) -> str | None:
        if unknown := call.parts - KNOWS - {"softcap"}:
            return f"matmul does not know {', '.join(sorted(unknown))}"
        if call.rule.softcap is not None and call.terms:
            return "matmul does not know terms under a cap"
        if not all(term.bounded for term in call.terms):
            return "matmul does not know terms that may say -inf"
        return None

    def suits(self, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall) -> bool:
        if v.device.type != "cpu" or q.shape[2] * k.shape[2] > self.longest:
            return False
        if v.dtype == torch.bfloat16:
            return torch.is_grad_enabled() or call.rule.softcap is not None
        single = q.shape[0] == 1 and q.shape[1] >= 8 and q.shape[2] in self.single and k.shape[2] in self.single
        return single and v.dtype == torch.float32 and _at_once(v, call)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall) -> Tensor:
        dtype, sight, cap = v.dtype, call.visibility, call.rule.softcap
        if dtype == torch.float32 and _at_once(v, call):
            return _in_place(q.to(dtype), k.to(dtype), v, call)
        mask = _mask(q, k, call, dtype)
        grouped, keys = group(q.to(dtype), k.shape[1]), k.to(dtype).transpose(-1, -2)
        if cap is None:
            scores, wide = ungroup((grouped * call.rule.scale) @ keys, q.shape[1]), dtype
        else:
            scores = torch.tanh(ungroup(grouped @ keys, q.shape[1]) * call.rule.scale / cap) * cap
            wide = torch.promote_types(dtype, torch.float32)
        weights = (scores if mask is None else scores + mask).softmax(-1, dtype=wide)
        if call.dropout:
            weights = F.dropout(weights, call.dropout)
        out = ungroup(group(weights.to(dtype), v.shape[1]) @ v, q.shape[1])
        blind = None if sight.is_causal else sight.sees_nothing()
        return out if blind is None else out.masked_fill(blind, 0.0)


def _at_once(v: Tensor, call: AttentionCall) -> bool:
    """Whether one buffer can hold scores and weights, since nothing is asked about them later."""
    plain = not call.dropout and call.rule.softcap is None and not torch.is_grad_enabled()
    return plain and v.device.type == "cpu" and not torch.compiler.is_compiling()


def _in_place(q: Tensor, k: Tensor, v: Tensor, call: AttentionCall) -> Tensor:
    sight, shape = call.visibility, (*q.shape[:3], k.shape[2])
    with exact(q.device):
        mask = _mask(q, k, call, v.dtype)
        queries, keys = group(q, k.shape[1]).flatten(0, 1), k.flatten(0, 1).transpose(1, 2)
        if mask is not None and shape[0] == 1 and shape[1] == k.shape[1]:  # of one row: added by the product itself
            scores = torch.baddbmm(mask[0], queries, keys, alpha=call.rule.scale).view(shape)
        else:
            scores = torch.baddbmm(q.new_empty(1, 1, 1), queries, keys, beta=0, alpha=call.rule.scale).view(shape)
            scores = scores if mask is None else scores.add_(mask)
        weights = torch.softmax(scores, -1, out=scores)
        blind = None if mask is None or sight.is_causal else sight.sees_nothing()
        if blind is not None:
            weights.masked_fill_(blind, 0.0)
        if call.kept is not None:
            call.kept.append(weights)
        return ungroup(group(weights, v.shape[1]) @ v, q.shape[1])


def _mask(q: Tensor, k: Tensor, call: AttentionCall, dtype: torch.dtype) -> Tensor | None:
    """[B|1, H|1, Q, K] terms and mask as one addend, finite, so that a row that sees nothing stays finite too."""
    sight = call.visibility
    if not call.terms:
        return sight.addend(slice(None), slice(None), dtype)
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
