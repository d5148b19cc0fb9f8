"""Local attention with global tokens that ask, are asked and answer each other by projections of their own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from attnlib.attention.backends.protocol import AttentionCall
from attnlib.attention.backends.reference import weights
from attnlib.attention.caches import LayerCache, Memory, Slots
from attnlib.attention.rotary import Turn
from attnlib.attention.scope import Scope
from attnlib.attention.softmax import Role, SoftmaxAttention, SoftmaxAttentionSpec
from attnlib.errors import UsageError
from attnlib.layout import GLOBAL, Layout
from attnlib.nn.linear import Linear
from attnlib.spec import FieldError


class LocalGlobalAttention(SoftmaxAttention):
    """Tokens tagged global attend by projections of their own, q', k' and v'; the others by q, k and v.

    Both see what the mask lets them, which should hold `global`: then all see global tokens and are seen by them. The keys
    of global tokens stand under k for the others, as in Beltagy et al. 2020 (arXiv:2004.05150). first: how many first tokens
    of each text are global where the layout tags none.
    """

    def __init__(self, *, first: int = 0, **parts: Any) -> None:
        super().__init__(**parts)
        self.first = first
        self.global_q, self.global_k, self.global_v = (
            Linear(own.in_features, own.out_features, bias=own.bias is not None) for own in (self.q, self.k, self.v)
        )

    def located(self, layout: Layout) -> Layout:
        if layout.tags is not None or not self.first:
            return layout

        def tagged() -> Layout:
            first = layout.positions < self.first
            found = layout.tagged(global_tokens=first if layout.real is None else first & layout.real)
            return found.derived(layout, self.located)

        found: Layout = layout.once(("first tagged", self.first), tagged)
        return found

    def _entry(self, x: Tensor, turn: Turn | None) -> dict[str, Tensor]:
        k = self._keys(x, turn, self.global_k)
        v = self.global_v(x).unflatten(-1, (self.num_kv_heads, self.d_head)).transpose(-3, -2)
        return {**super()._entry(x, turn), "global_k": k, "global_v": v}

    def _weigh(self, x: Tensor, q: Tensor, entry: dict[str, Tensor], call: AttentionCall, scope: Scope) -> Tensor:
        layout, keys = call.visibility.q, call.visibility.k
        if layout.tags is None:
            return super()._weigh(x, q, entry, call, scope)
        apart = apart_of(layout, self.first)
        local = call.over(scope.sight(self.mask, apart.local, keys, self.num_heads))
        y = super()._weigh(x, q, entry, local, scope)
        if not len(apart.row):
            return y
        wide, wanted = self._asked(x, apart, keys, call, scope)
        z = self._attend(wide, entry["global_k"], entry["global_v"], wanted, scope)
        answers = z.transpose(1, 2)[apart.row, apart.slot].to(y.dtype)
        return y.transpose(1, 2).index_put((apart.row, apart.column), answers).transpose(1, 2)

    def _asked(
        self, x: Tensor, apart: _Apart, keys: Layout, call: AttentionCall, scope: Scope
    ) -> tuple[Tensor, AttentionCall]:
        """The queries [B, H, g, D] of global tokens, and whom they see."""
        asking = x[torch.arange(x.shape[0], device=x.device)[:, None], apart.columns]  # [B, g, M]
        wide = self._queries(asking, self._turn(apart.asking, asking, scope), self.global_q)
        return wide, call.over(scope.sight(self.mask, apart.asking, keys, self.num_heads))

    def implied_weights(
        self, x: Tensor, layout: Layout, scope: Scope, *, rows: slice = slice(None), memory: Memory | None = None
    ) -> Tensor:
        """[B, H, R, K] of the queries in `rows`: those of global tokens by their own projections."""
        layout = self.located(layout)
        turn = self._turn(layout, x, scope)
        q, entry = self._queries(x, turn), self._entry(x, turn)
        call = AttentionCall(scope.sight(self.mask, layout, layout, self.num_heads), self.rule, 0.0, scope.terms)
        if layout.tags is None:
            return weights(q, entry["k"], call, rows=rows)
        apart = apart_of(layout, self.first)
        found = weights(q, entry["k"], call.over(scope.sight(self.mask, apart.local, layout, self.num_heads)), rows=rows)
        if not len(apart.row):
            return found
        wide, wanted = self._asked(x, apart, layout, call, scope)
        far = weights(wide, entry["global_k"], wanted).transpose(1, 2)[apart.row, apart.slot]
        asked, place = (apart.column[:, None] == torch.arange(layout.tokens, device=x.device)[rows]).nonzero(as_tuple=True)
        return found.transpose(1, 2).index_put((apart.row[asked], place), far[asked]).transpose(1, 2)

    def new_cache(self, slots: Slots) -> LayerCache:
        if self.first:
            fact = f"makes the first {self.first} tokens global"
            raise UsageError(self.path, fact, "a cache wants them tagged in the layout", "first: 0")
        return super().new_cache(slots)


class _Apart(NamedTuple):
    """The global tokens of a batch beside all: columns [B, g], and for each real one its row, slot and column."""

    local: Layout
    asking: Layout
    columns: Tensor
    row: Tensor
    slot: Tensor
    column: Tensor


def apart_of(layout: Layout, first: int) -> _Apart:
    """Made once for all layers. On the meta device, where no tag can be read, each text has its `first` tokens."""
    return layout.once(("global rows", first), lambda: _apart(layout, first))  # type: ignore[no-any-return]


def _apart(layout: Layout, first: int) -> _Apart:
    assert layout.tags is not None
    known = layout.tags.device.type != "meta"
    tagged = (layout.tags & GLOBAL) != 0
    if layout.segments is not None:
        tagged = tagged & (layout.segments >= 0)
    counts = tagged.sum(1)
    most = int(counts.max()) if known and tagged.numel() else _most(layout, first)
    columns = (~tagged).int().argsort(dim=1, stable=True)[:, :most]  # tagged ones first, in their order
    here = torch.arange(most, device=layout.device) < counts[:, None]
    row, slot = (here if known else torch.ones(here.shape, device="cpu")).nonzero().to(here.device).unbind(1)
    segments = torch.zeros_like(layout.positions) if layout.segments is None else layout.segments
    at = None if layout.encoded_at is None else layout.encoded_at.gather(1, columns)
    asking = Layout(
        layout.positions.gather(1, columns),
        segments.gather(1, columns).masked_fill(~here, -1),
        tags=layout.tags.gather(1, columns),
        encoded_at=at,
    )
    local = replace(layout, tags=layout.tags & ~GLOBAL, memo={})
    if not known or not bool(local.tags.any()):  # type: ignore[union-attr]
        local = replace(local, tags=None, memo={})
    asking.derived(layout, lambda real: apart_of(real, first).asking)
    local.derived(layout, lambda real: apart_of(real, first).local)
    return _Apart(local, asking, columns, row, slot, columns[row, slot])


def _most(layout: Layout, first: int) -> int:
    """The most global tokens of a row whose texts have `first` each."""
    if layout.runs is None:
        return min(first, layout.tokens)
    counts = [0] * layout.batch
    for row, _, length in layout.runs:
        counts[row] += min(first, length)
    return max(counts, default=0)


class LocalGlobalSpec(SoftmaxAttentionSpec, kind="local_global"):
    """Softmax attention whose global tokens have projections of their own (Longformer); self-attention only.

    mask: what is seen, `any` of a window and `global`, say. first: so many first tokens of each text are global where the
    layout tags none.
    """

    made: ClassVar[type[SoftmaxAttention]] = LocalGlobalAttention
    first: int = Field(default=0, ge=0)

    def check(self, *, d_model: int, role: Role) -> None:
        if role == "cross":
            raise FieldError("kind", "stands in cross-attention", "global tokens are those of the queries' own text",
                             "softmax can cross")  # fmt: skip
        super().check(d_model=d_model, role=role)

    def check_decoding(self) -> None:
        if self.first:
            raise FieldError("first", f"{self.first} in a decoder", "a cache wants global tokens tagged in the layout",
                             "first: 0")  # fmt: skip

    def build(self, *, d_model: int, layer: int, d_memory: int | None = None) -> LocalGlobalAttention:
        attention = super().build(d_model=d_model, layer=layer, d_memory=d_memory)
        assert isinstance(attention, LocalGlobalAttention)
        attention.first = self.first
        return attention
