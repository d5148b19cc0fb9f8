"""FlexAttention: the same elementwise mask and terms, handed to torch's kernel generator."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor

from attnlib.attention.backends.protocol import AttentionCall, Backend
from attnlib.attention.visibility import Visibility
from attnlib.layout import Coordinates, Layout

KNOWS = frozenset({"term", "softcap"})


class Flex(Backend):
    """Compiled on CUDA; on the CPU it has no backward and a compile of some 20 s, so there it runs unfused, on request."""

    name = "flex"
    automatic = None

    def refuses(self, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall) -> str | None:
        if not call.parts <= KNOWS:
            return f"flex_attention does not know {', '.join(sorted(call.parts - KNOWS))}"
        if 0 in (q.shape[0], q.shape[2], k.shape[2]):
            return "flex_attention makes no mask of nothing"
        if call.dropout:
            return "flex_attention has no dropout"
        if q.device.type == "cpu" and torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v)):
            return "flex_attention has no backward on the CPU"
        if q.dtype == torch.float64 and q.is_cuda:
            return "flex_attention has no float64 kernel"
        return None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall) -> Tensor:
        if q.device.type == "cpu":  # it looks at requires_grad even under no_grad
            q, k, v = q.detach(), k.detach(), v.detach()
        return _kernel(q.is_cuda)(  # type: ignore[no-any-return]
            q, k, v, _score_mod(q, k, call), _block_mask(call.visibility), call.rule.scale, q.shape[1] != k.shape[1]
        )


@cache
def _kernel(compiled: bool) -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return cast(Callable[..., Any], torch.compile(flex_attention) if compiled else flex_attention)


def _reader(layout: Layout) -> Callable[[Tensor, Tensor, Tensor], Coordinates]:
    """Coordinates of one token from scalars, as the kernel asks for them."""
    positions, segments, tags = layout.positions.contiguous(), layout.segments, layout.tags

    def read(row: Tensor, head: Tensor, index: Tensor) -> Coordinates:
        zero = torch.zeros_like(index)
        segment = zero if segments is None else segments[row, index]
        return Coordinates(positions[row, index], segment, index, row, head, zero if tags is None else tags[row, index])

    return read


def _score_mod(q: Tensor, k: Tensor, call: AttentionCall) -> Callable[..., Tensor] | None:
    if not call.parts:
        return None
    bound = [tuple(t.detach() if t.device.type == "cpu" else t for t in tensors) for tensors in call.bind(q, k)]
    read_q, read_k = _reader(call.visibility.q), _reader(call.visibility.k)
    terms, softcap = call.terms, call.rule.softcap

    def score_mod(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        qc, kc = read_q(b, h, q_idx), read_k(b, h, kv_idx)
        for term, tensors in zip(terms, bound):
            score = score + term.score(tensors, qc, kc)
        if softcap is None:
            return score
        return torch.where(score == -torch.inf, score, softcap * torch.tanh(score / softcap))

    return score_mod


def _block_mask(sight: Visibility) -> Any:
    if sight.unmasked:
        return None
    return sight.once("block", lambda: _make_block_mask(sight))


def _make_block_mask(sight: Visibility) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    read_q, read_k, mask = _reader(sight.q), _reader(sight.k), sight.mask
    padded = sight.q.segments is not None or sight.k.segments is not None

    def mask_mod(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        qc, kc = read_q(b, h, q_idx), read_k(b, h, kv_idx)
        seen = mask.visible(qc, kc)
        return seen & (qc.segment == kc.segment) & (kc.segment >= 0) if padded else seen

    return create_block_mask(mask_mod, sight.q.batch, sight.heads, sight.q.tokens, sight.k.tokens, sight.q.device)
