"""Row blocks of queries, each recomputed in the backward: any rule, memory linear in the tokens."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from attnlib.attention.backends.protocol import AttentionCall, Backend
from attnlib.attention.backends.reference import mix, weights


class Chunked(Backend):
    """The reference, `rows` queries at a time, over the keys those can see; nothing of size Q*K is kept."""

    name = "chunked"
    automatic = 50
    rows = 64
    crossover = 1 << 20  # Q*K above which a materialised bias costs more than recomputing

    def refuses(self, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall) -> str | None:
        return None

    def suits(self, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall) -> bool:
        return q.shape[2] * k.shape[2] >= self.crossover

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall) -> Tensor:
        bound = call.bind(q, k)
        recompute = torch.is_grad_enabled()

        def block(first: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            rows = slice(first, min(first + self.rows, q.shape[2]))
            keys = call.visibility.keys_of(rows)
            return mix(weights(q, k, call, bound, rows, keys), v[:, :, keys], call.dropout)

        parts = []
        for first in range(0, q.shape[2], self.rows):
            if recompute:
                parts.append(checkpoint(block, first, q, k, v, use_reentrant=False, preserve_rng_state=call.dropout > 0))
            else:
                parts.append(block(first, q, k, v))
        return torch.cat(parts, 2) if parts else q.new_zeros(*q.shape[:3], v.shape[3])
