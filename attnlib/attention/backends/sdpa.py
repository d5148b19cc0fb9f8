"""F.scaled_dot_product_attention, with a flag where the mask is a triangle, else with one mask made once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from attnlib.attention.backends.protocol import AttentionCall, Backend

KNOWS = frozenset({"term"})


class SDPA(Backend):
    """torch's fused kernels. Knows scale, dropout, and terms as a materialised bias."""

    name = "sdpa"
    automatic = 40

    def refuses(self, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall) -> str | None:
        if not call.parts <= KNOWS:
            return f"scaled_dot_product_attention does not know {', '.join(sorted(call.parts - KNOWS))}"
        return None

    def suits(self, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall) -> bool:
        if not call.terms or q.shape[2] * k.shape[2] < 1 << 20:
            return True
        # a bias as large as all pairs: worth its memory only where layers share it and no gradient needs it
        return all(term.static for term in call.terms) and not torch.is_grad_enabled()

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall) -> Tensor:
        sight = call.visibility
        if not call.terms:
            if sight.unmasked:
                return fused(q, k, v, None, call)
            if sight.is_causal:
                return fused(q, k, v, None, call, causal=True)
        bias, seen = call.bias(q, k), sight.dense()
        blind = None
        if q.is_cuda and seen is not None:  # fused CUDA kernels may give NaN where a row sees nothing
            blind = sight.sees_nothing()
            assert blind is not None
            seen = seen | blind
        if bias is None:
            mask = seen
        else:
            key = ("additive", *map(id, call.terms), q.dtype)
            mask = sight.memo.get(key) if all(term.static for term in call.terms) else None
            if mask is None:
                mask = bias.to(q.dtype) if seen is None else bias.to(q.dtype).masked_fill(~seen, -torch.inf)
                sight.memo[key] = mask
        if q.is_cuda and bias is not None and mask is not None and not all(term.bounded for term in call.terms):
            blind = (mask == -torch.inf).all(-1, keepdim=True)
            mask = mask.masked_fill(blind, 0.0)
        out = fused(q, k, v, mask, call)
        return out if blind is None else out.masked_fill(blind, 0.0)


def fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, call: AttentionCall, causal: bool = False) -> Tensor:
    """torch's kernel with the scale and dropout of a call; the call's mask and terms are not looked at."""
    width, grouped = v.shape[3], q.shape[1] != k.shape[1]
    if width != q.shape[3]:  # kernels want one width: a padded value is far faster than the unfused path
        wide = max(width, q.shape[3])
        q, k, v = (F.pad(t, (0, wide - t.shape[3])) for t in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, mask, call.dropout, causal, scale=call.rule.scale, enable_gqa=grouped)
    return out if out.shape[3] == width else out[..., :width]
