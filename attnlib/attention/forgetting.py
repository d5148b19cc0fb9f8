"""Forgetting attention: a gate of each token says how much of all before it later tokens still see."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnlib.attention.biases import ScoreTerm, cut
from attnlib.attention.caches import KeyValueCache
from attnlib.attention.exact import exact
from attnlib.attention.gated import GatedAttention, Gates
from attnlib.attention.linear.mixer import refuse_cross
from attnlib.attention.linear.texts import Texts
from attnlib.attention.masks import terms
from attnlib.attention.rotary import Turn
from attnlib.attention.scope import Scope
from attnlib.attention.softmax import Role, SoftmaxAttention, SoftmaxAttentionSpec
from attnlib.layout import Coordinates, Layout
from attnlib.nn.linear import Linear


class Forgotten(ScoreTerm):
    """-|c_i - c_j|, of sums c that were handed over: [B, H, Q, 1] of the queries and [B, H, K, 1] of the keys.

    causal: no query sees a later key. Where tokens stand one after the other it is then c_i - c_j, as sums only fall.
    """

    bounded = True
    static = False
    relative = False

    def __init__(self, queries: Tensor, keys: Tensor, *, causal: bool = False) -> None:
        super().__init__()
        self.given = (queries, keys)  # a tuple: nobody's buffers
        self.causal, self.falls = causal, False

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """To another dtype or device, with what was handed over."""
        self.given = (fn(self.given[0]), fn(self.given[1]))
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call, no-any-return]

    def tensors(self, q: Tensor, k: Tensor) -> tuple[Tensor, ...]:
        return self.given

    def within(self, layouts: tuple[Layout, Layout], q: Tensor, k: Tensor) -> tuple[Tensor, ...]:
        self.falls = self.causal and all(layout.is_dense for layout in layouts)
        return self.given

    def score(self, tensors: tuple[Tensor, ...], q: Coordinates, k: Coordinates) -> Tensor:
        queries, keys = tensors
        if q.head.dim() == 0:  # in a compiled kernel
            return -(queries[q.row, q.head, q.column, 0] - keys[q.row, q.head, k.column, 0]).abs()
        theirs = cut(keys, k._replace(row=q.row, head=q.head))
        apart = cut(queries, q) - theirs.transpose(-1, -2)
        return apart if self.falls else -apart.abs()


class ForgetGate(nn.Module):
    """log f [B, T, H], f = sigmoid(W x + b), of x [B, T, M].

    b begins at log n, n from 32 to 1024 over the heads, so that a token's weight falls by a factor e in about n tokens. From
    0, as zero biases have it, every token would halve all before it, and what is far is out of reach of learning.
    """

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.gate = Linear(d_model, num_heads, bias=False)
        self.bias = nn.Parameter(torch.empty(num_heads))
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        self.bias.copy_(torch.linspace(math.log(32.0), math.log(1024.0), self.bias.shape[0]))

    def forward(self, x: Tensor) -> Tensor:
        return F.logsigmoid(exact(self.gate(x)) + exact(self.bias))


class ForgettingAttention(GatedAttention):
    """softmax(q k^T * scale + D) v, D[i, j] = sum of log f_l over j < l <= i, f = sigmoid(F x + b) of each head.

    Lin et al. 2025, arXiv:2503.02130. D is c_i - c_j, c the running sum of log f in each text; where a query sees later
    keys, -|c_i - c_j|. Sums are kept in float32, and go on from what a cache holds; long texts never hold D whole.
    """

    def __init__(self, *, d_model: int, **given: Any) -> None:
        super().__init__(d_model=d_model, **given)
        self.forget = ForgetGate(d_model, self.num_heads)

    def _columns(
        self, x: Tensor, layout: Layout, turn: Turn | None, cache: KeyValueCache | None
    ) -> tuple[dict[str, Tensor], Layout]:
        held = None if cache is None else cache.held.get("sum")
        own = self.sums(x, layout, held)
        entry = self._entry(x, turn) | {"forgotten": own}
        if cache is None:
            return entry | {"own": own}, layout
        seen = cache.extend(entry) | {"own": own}
        cache.held["sum"] = own[:, :, -1:].contiguous() if own.shape[2] else own.new_zeros(*own.shape[:2], 1, 1)
        return seen, cache.layout

    def _terms(self, scope: Scope, entry: dict[str, Tensor]) -> tuple[ScoreTerm, ...]:
        return (*scope.terms, Forgotten(entry["own"], entry["forgotten"], causal=terms(self.mask).after == 0))

    def sums(self, x: Tensor, layout: Layout, held: Tensor | None = None) -> Tensor:
        """c [B, H, T, 1]: log f summed over the tokens of each text, the first going on from `held` [B, H, 1, 1]."""
        texts = Texts.of(layout)
        kept = texts.keep(self.forget(x)).transpose(1, 2)  # [B, H, T]
        if texts.runs is None:
            total = kept.cumsum(2)
            return (total if held is None else total + held[..., 0])[..., None]
        total = _by_text(kept, texts.runs)
        if held is not None:
            total = total + held[..., 0] * (texts.runs == 0)[:, None]
        return total[..., None]


def _by_text(x: Tensor, runs: Tensor) -> Tensor:
    """x [B, H, T] summed from the start of each run [B, T], no other run's values passing through, gradients neither."""
    back = 1
    while back < x.shape[2]:
        alike = (runs[:, back:] == runs[:, :-back])[:, None]
        x = x + F.pad(x[..., :-back].masked_fill(~alike, 0.0), (back, 0))
        back *= 2
    return x


class ForgettingSpec(SoftmaxAttentionSpec, kind="forgetting"):
    """Softmax attention that forgets by gates of the tokens between (FoX, Lin et al. 2025); self-attention.

    gate: of the heads' outputs too, as in `gated`; null = none. All else as in softmax attention.
    """

    gate: Gates | None = None
    made: ClassVar[type[SoftmaxAttention]] = ForgettingAttention

    def check(self, *, d_model: int, role: Role) -> None:
        if role == "cross":
            refuse_cross(self.kind)
        super().check(d_model=d_model, role=role)

    def build(self, *, d_model: int, layer: int, d_memory: int | None = None) -> nn.Module:
        built = super().build(d_model=d_model, layer=layer, d_memory=d_memory)
        assert isinstance(built, ForgettingAttention)
        if self.gate is not None:
            built.gated_by(self.gate, d_model)
        return built
