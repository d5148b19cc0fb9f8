"""The definition: scores, weights and output materialised. Refuses nothing; the others are held against it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from attnlib.attention.backends.protocol import AttentionCall, Backend


def weights(
    q: Tensor,
    k: Tensor,
    call: AttentionCall,
    bound: list[tuple[Tensor, ...]] | None = None,
    rows: slice = slice(None),
    keys: slice = slice(None),
) -> Tensor:
    """[B, H, Q, K] attention weights before dropout, of the queries `rows` over the keys `keys`; at least fp32.

    softmax(softcap(scale * q k^T + terms)) over the visible keys; a query that sees no key gets zeros.
    """
    bound = call.bind(q, k) if bound is None else bound
    q, k = q[:, :, rows], k[:, :, keys]
    heads, groups = q.shape[1], k.shape[1]
    dtype = torch.promote_types(q.dtype, torch.float32)
    if groups != heads:
        q = q.unflatten(1, (groups, heads // groups)).flatten(2, 3)  # [B, G, H/G * Q, D]
    scores = (q.to(dtype) * call.rule.scale) @ k.to(dtype).transpose(-1, -2)
    if groups != heads:
        scores = scores.unflatten(2, (heads // groups, -1)).flatten(1, 2)  # [B, H, Q, K]
    added = call.added(bound, rows, keys)
    if added is not None:
        scores = scores + added
    if call.rule.softcap is not None:
        scores = call.rule.softcap * torch.tanh(scores / call.rule.softcap)
    visible = call.visibility.dense(rows, keys)
    if added is not None:  # a term may say -inf: that is not seeing
        never = scores == -torch.inf
        visible = ~never if visible is None else visible & ~never
        scores = scores.masked_fill(never, 0.0)
    result: Tensor = call.rule.normaliser(scores, visible)
    return result


def mix(probabilities: Tensor, v: Tensor, dropout: float) -> Tensor:
    """[B, H, Q, K] weights and [B, G, K, Dv] values -> [B, H, Q, Dv] in v's dtype."""
    if dropout:
        probabilities = F.dropout(probabilities, dropout)
    heads, groups = probabilities.shape[1], v.shape[1]
    values = v.to(probabilities.dtype)
    if groups == heads:
        return (probabilities @ values).to(v.dtype)
    grouped: Tensor = probabilities.unflatten(1, (groups, heads // groups)).flatten(2, 3) @ values
    mixed: Tensor = grouped.unflatten(2, (heads // groups, -1)).flatten(1, 2)
    return mixed.to(v.dtype)


class Reference(Backend):
    """Materialises the weights: O(Q*K) memory, every rule."""

    name = "reference"
    automatic = 90

    def refuses(self, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall) -> str | None:
        return None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall) -> Tensor:
        return mix(weights(q, k, call), v, call.dropout)
