"""The definition: scores, weights and output materialised. Refuses nothing; the others are held against it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn import functional as F

from attnlib.attention.backends.protocol import AttentionCall, Backend
from attnlib.attention.scores import Softmax
from attnlib.attention.visibility import Columns

Bound = list[tuple[Tensor, ...]]


def weights(
    q: Tensor,
    k: Tensor,
    call: AttentionCall,
    bound: Bound | None = None,
    rows: slice = slice(None),
    keys: Columns = slice(None),
) -> Tensor:
    """[B, H, Q, K] attention weights before dropout, of the queries `rows` over the keys `keys`; at least fp32.

    softmax(softcap(scale * q k^T + terms)) over the visible keys; a query that sees no key gets zeros.
    """
    with exact(q.device):
        bound = call.bind(q, k) if bound is None else bound
        return normalise(products(q[:, :, rows], k[:, :, keys], call.rule.scale), call, bound, rows, keys)


def products(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """[B, H, Q, D] and [B, G, K, D] -> scale * q k^T [B, H, Q, K], in at least fp32; key heads are not repeated."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    queries, keys = group(q, k.shape[1]).to(dtype) * scale, k.to(dtype)
    # flat before it is turned: matmul would copy turned keys of several rows, which costs more than the product
    found = torch.bmm(queries.flatten(0, 1), keys.flatten(0, 1).transpose(1, 2))
    return ungroup(found.unflatten(0, k.shape[:2]), q.shape[1])


def normalise(scores: Tensor, call: AttentionCall, bound: Bound, rows: slice, keys: Columns) -> Tensor:
    """Scaled products of a tile [B, H, Q, K] -> its weights: terms, softcap, mask, normaliser."""
    added = call.added(bound, rows, keys)
    learns = scores.requires_grad or (added is not None and added.requires_grad)
    if not learns and not torch.compiler.is_compiling():
        edges = edges_of(call, rows, keys)
        if edges is not None:
            return softmax_in_place(scores, added, call, rows, keys, edges)
    if added is not None:
        scores = scores + added
    never = None
    if not all(term.bounded for term in call.terms):  # a term may say -inf: that is not seeing
        never = scores == -torch.inf
        scores = scores.masked_fill(never, 0.0)
    if call.rule.softcap is not None:
        scores = call.rule.softcap * torch.tanh(scores / call.rule.softcap)
    visible = call.visibility.dense(rows, keys)
    if never is not None:
        visible = ~never if visible is None else visible & ~never
    result: Tensor = call.rule.normaliser(scores, visible)
    return result


def edges_of(call: AttentionCall, rows: slice, keys: Columns) -> tuple[slice, ...] | None:
    """Static: where a tile's weights are the softmax of its scores but for a mask at its edges, those columns; else None."""
    rule = call.rule
    if rule.softcap is not None or type(rule.normaliser) is not Softmax or not all(term.bounded for term in call.terms):
        return None
    return call.visibility.edges_of(rows, keys) if isinstance(keys, slice) else None


def softmax_in_place(
    scores: Tensor, added: Tensor | None, call: AttentionCall, rows: slice, keys: Columns, edges: tuple[slice, ...]
) -> Tensor:
    """The weights of such a tile, in the place of its scores; nothing is recorded for a backward."""
    assert isinstance(keys, slice)
    if added is not None:
        scores = scores.add_(added) if added.dtype == scores.dtype else scores + added
    sight = call.visibility
    begin = keys.indices(sight.k.tokens)[0]
    for part in edges:
        hidden = sight.addend(rows, part, scores.dtype)
        if hidden is not None:
            scores[..., part.start - begin : part.stop - begin].add_(hidden)
    # on a CPU a row is read before it is written, and a second tile would cost as much as the softmax
    return torch.softmax(scores, -1, out=scores) if scores.device.type == "cpu" else scores.softmax(-1)


def mix(probabilities: Tensor, v: Tensor) -> Tensor:
    """[B, H, Q, K] weights and [B, G, K, Dv] values -> [B, H, Q, Dv] in v's dtype."""
    mixed = group(probabilities, v.shape[1]) @ v.to(probabilities.dtype)
    return ungroup(mixed, probabilities.shape[1]).to(v.dtype)


def group(x: Tensor, groups: int) -> Tensor:
    """[B, H, Q, N] -> [B, G, H/G * Q, N]: the query heads that share a key head, as more rows of it."""
    if x.shape[1] == groups:
        return x
    return x.unflatten(1, (groups, -1)).flatten(2, 3)  # type: ignore[no-any-return]


def ungroup(x: Tensor, heads: int) -> Tensor:
    """[B, G, H/G * Q, N] -> [B, H, Q, N]."""
    if x.shape[1] == heads:
        return x
    return x.unflatten(2, (heads // x.shape[1], -1)).flatten(1, 2)  # type: ignore[no-any-return]


def exact(device: torch.device) -> AbstractContextManager[None]:
    """No autocast: the definition is computed in the precision it names."""
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


class Reference(Backend):
    """Materialises the weights: O(Q*K) memory, every rule."""

    name = "reference"
    automatic = 90

    def refuses(self, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall) -> str | None:
        return None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall) -> Tensor:
        probabilities = weights(q, k, call)
        with exact(q.device):
            return mix(F.dropout(probabilities, call.dropout) if call.dropout else probabilities, v)
