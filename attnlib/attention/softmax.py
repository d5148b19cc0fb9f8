"""Softmax attention as a mixer: self or cross, multi-head or grouped, one forward for all."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Protocol, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from attnlib.attention import (  # noqa: F401  (kinds of parts)
    additive,
    block_routing,
    disentangled,
    lsh,
    normalisers,
    patterns,
    random_blocks,
    transformer_xl,
)
from attnlib.attention.backends.choose import choose
from attnlib.attention.backends.protocol import AttentionCall
from attnlib.attention.biases import ScoreTerm, TermSpec
from attnlib.attention.caches import KeyValueCache, LayerCache, Memory, Slots
from attnlib.attention.masks import Everything, Mask, Retention
from attnlib.attention.rotary import Rotary, Turn
from attnlib.attention.scope import Scope
from attnlib.attention.scores import ScoreRule, ScoresSpec, SoftmaxSpec
from attnlib.layout import Layout
from attnlib.nn.linear import Linear
from attnlib.nn.norms import Norm, RMSNormSpec
from attnlib.spec import FieldError, Spec

Role = Literal["self", "cross"]


class Mixer(Protocol):
    """What mixes tokens: softmax attention or anything else with this door.

    Where the output is a weighted sum of values, `implied_weights(x, layout, scope, *, rows=slice(None), memory=None)` may
    say which: [B, H, R, K] of the queries in `rows`. Recording asks for it; softmax attention needs none. One that has none
    may say so in `why_no_weights`. `stateful = True`: its cache is a state and holds no columns of the past.

    What asks no backend tells `explain` what it is in `in_words`, and what computes tokens in `how(layout, memory, cache)`.
    """

    path: str  # where it stands in its model, "decoder.3.attention"

    def __call__(
        self, x: Tensor, layout: Layout, scope: Scope, *, memory: Memory | None = None, cache: Any = None
    ) -> Tensor: ...

    def remember(self, x: Tensor, layout: Layout) -> Memory:
        """What this mixer keeps of an encoder's output x [B, S, M], made once."""
        ...

    def keeps(self) -> Retention:
        """How much of the past its cache must keep."""
        ...

    def new_cache(self, slots: Slots) -> LayerCache: ...


class MixerSpec(Spec, slot="mixer", default="softmax"):
    """What mixes tokens."""

    def build(self, *, d_model: int, layer: int, d_memory: int | None = None) -> nn.Module:
        """The mixer of layer number `layer` (from 0); `d_memory` is the encoder's width for cross-attention."""
        raise NotImplementedError

    def check(self, *, d_model: int, role: Role) -> None:
        """Raises FieldError, naming a field of this spec, where it cannot stand in a model of this width."""

    def check_decoding(self) -> None:
        """Raises FieldError, naming a field of this spec, where it cannot write token by token after a cache."""

    def exact(self) -> MixerSpec | None:
        """The attention that this one approximates, of the same projections; None = it approximates none."""
        return None


class SoftmaxAttention(nn.Module):
    """softmax(q k^T * scale + ...) v over H query heads and G key-value heads, G dividing H.

    x [B, T, M] -> [B, T, M]. With `memory` it attends to that instead of x; a `cache` adds what earlier tokens left.
    """

    def __init__(
        self,
        *,
        d_model: int,
        num_heads: int,
        num_kv_heads: int,
        d_head: int,
        rule: ScoreRule,
        mask: Mask | None = None,
        rotary: Rotary | None = None,
        qk_norm: tuple[nn.Module, nn.Module] | None = None,
        bias: tuple[str, ...] = (),
        d_memory: int | None = None,
    ) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.d_head = num_heads, num_kv_heads, d_head
        self.mask, self.rotary, self.rule = mask or Everything(), rotary, rule
        source = d_model if d_memory is None else d_memory
        self.crosses, self.d_turn = d_memory is not None, d_head  # d_turn: the width that rotary turns
        self.q = Linear(d_model, num_heads * d_head, bias="q" in bias)
        self.k = Linear(source, num_kv_heads * d_head, bias="k" in bias)
        self.v = Linear(source, num_kv_heads * d_head, bias="v" in bias)
        self.out = Linear(num_heads * d_head, d_model, bias="out" in bias)
        self.q_norm, self.k_norm = qk_norm or (nn.Identity(), nn.Identity())
        self.dropout = 0.0
        self.backend = "auto"
        self.path = "attention"

    def forward(
        self,
        x: Tensor,
        layout: Layout | None = None,
        scope: Scope | None = None,
        *,
        memory: Memory | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        layout = self.located(layout or Layout.dense(x.shape[0], x.shape[1], device=x.device))
        scope = scope or Scope()
        turn = self._turn(layout, x, scope)
        q = self._queries(x, turn)  # [B, H, T, D]
        entry, keys = (memory.entry, memory.layout) if memory is not None else self._columns(x, layout, turn, cache)
        call = AttentionCall(
            scope.sight(self.mask, layout, keys, self.num_heads),
            self.rule,
            self.dropout if self.training else 0.0,
            self._terms(scope, entry) if memory is None else (),
        )
        return self.finish(x, self._weigh(x, q, entry, call, scope))

    def _columns(
        self, x: Tensor, layout: Layout, turn: Turn | None, cache: KeyValueCache | None
    ) -> tuple[dict[str, Tensor], Layout]:
        """All that may be attended to, what a cache holds included, and where it stands."""
        entry = self._entry(x, turn)
        return (entry, layout) if cache is None else (cache.extend(entry), cache.layout)

    def _terms(self, scope: Scope, entry: dict[str, Tensor]) -> tuple[ScoreTerm, ...]:
        """What is added to the scores beside the rule's own terms."""
        return scope.terms

    def finish(self, x: Tensor, y: Tensor) -> Tensor:
        """Heads y [B, H, T, D], made of x [B, T, M], to [B, T, M]."""
        return self.out(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def located(self, layout: Layout) -> Layout:
        """Where tokens stand, as this attention reads it."""
        return layout

    def _weigh(self, x: Tensor, q: Tensor, entry: dict[str, Tensor], call: AttentionCall, scope: Scope) -> Tensor:
        """[B, H, T, D] of the queries q, which are those of x [B, T, M]."""
        return self._attend(q, entry["k"], entry["v"], call, scope)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall, scope: Scope) -> Tensor:
        asked = self.backend if self.backend != "auto" else scope.backend
        backend = choose(q, k, v, call, asked)
        if scope.door is not None:
            return scope.door(self.path, q, k, v, call, lambda: backend(q, k, v, call))
        return backend(q, k, v, call)

    def _turn(self, layout: Layout, x: Tensor, scope: Scope) -> Turn | None:
        if self.rotary is None:
            return None
        device = x.device.type
        mixed = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if mixed else x.dtype
        return self.rotary.table(layout, self.d_turn, dtype, scope.lengths)

    def _queries(self, x: Tensor, turn: Turn | None, project: nn.Module | None = None) -> Tensor:
        q: Tensor = self._heads((project or self.q)(x), self.num_heads, self.q_norm)
        return self._turned(self.rule.product.query(q), turn)

    def _keys(self, x: Tensor, turn: Turn | None, project: nn.Module | None = None) -> Tensor:
        k: Tensor = self._heads((project or self.k)(x), self.num_kv_heads, self.k_norm)
        return self._turned(self.rule.product.key(k), turn)

    def _heads(self, flat: Tensor, heads: int, norm: nn.Module) -> Tensor:
        """[.., T, heads * D] -> [.., heads, T, D], normed."""
        normed = not isinstance(norm, nn.Identity)
        full = normed and cast(int, norm.width) != self.d_head
        if full:
            flat = norm(flat).to(flat.dtype)
        x = flat.unflatten(-1, (heads, -1))
        if normed and not full:
            x = norm(x).to(flat.dtype)
        return x.transpose(-3, -2)  # type: ignore[no-any-return]

    def _turned(self, x: Tensor, turn: Turn | None) -> Tensor:
        return x if turn is None or self.rotary is None else self.rotary.turn(x, turn)

    def _entry(self, x: Tensor, turn: Turn | None) -> dict[str, Tensor]:
        """What is kept of each token: k and v [B, G, K, D]."""
        return {"k": self._keys(x, turn), "v": self._heads(self.v(x), self.num_kv_heads, _plain)}

    def at_rest(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Queries [.., H, T, D] and keys [.., G, T, D] of x [.., T, M], not turned."""
        return self._queries(x, None), self._keys(x, None)

    def remember(self, x: Tensor, layout: Layout) -> Memory:
        """Keys and values of an encoder's output x [B, S, M]; cross-attention turns nothing."""
        return Memory(self._entry(x, None), layout)

    def keeps(self) -> Retention:
        return self.mask.keeps()

    def new_cache(self, slots: Slots) -> LayerCache:
        return KeyValueCache(slots)

    def extra_repr(self) -> str:
        grouped = "" if self.num_heads == self.num_kv_heads else f", num_kv_heads={self.num_kv_heads}"
        return f"num_heads={self.num_heads}{grouped}, d_head={self.d_head}, mask={self.mask!r}"


_plain = nn.Identity()


class SoftmaxAttentionSpec(MixerSpec, kind="softmax"):
    """Softmax attention, self or cross, multi-head, grouped or multi-query.

    num_kv_heads: null = num_heads, 1 = multi-query. d_head: null = d_model / num_heads. bias: projections that have one.

    qk_norm: none, head (each head alone) or full (all heads as one row), with `norm` as its kind. dropout: of the weights.
    """

    made: ClassVar[type[SoftmaxAttention]] = SoftmaxAttention
    places: ClassVar[bool] = True  # its keys stand where tokens stand, which terms read
    num_heads: int = Field(ge=1)
    num_kv_heads: int | None = Field(default=None, ge=1)
    d_head: int | None = Field(default=None, ge=1)
    mask: Mask = Everything()
    rotary: Rotary | None = None
    bias: bool | tuple[Literal["q", "k", "v", "out"], ...] = False
    term: TermSpec | None = None
    scores: ScoresSpec = ScoresSpec()
    qk_norm: Literal["none", "head", "full"] = "none"
    norm: Norm = RMSNormSpec()
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _groups(self) -> Self:
        if self.num_kv_heads is not None and self.num_heads % self.num_kv_heads:
            raise FieldError("num_kv_heads", str(self.num_kv_heads), f"must divide num_heads ({self.num_heads})")
        return self

    def check(self, *, d_model: int, role: Role) -> None:
        if self.d_head is None and d_model % self.num_heads:
            raise FieldError("num_heads", str(self.num_heads), f"must divide d_model ({d_model})", "or give d_head")
        d_head = self.d_head or d_model // self.num_heads
        if self.rotary is not None:
            self.rotary.check(d_head)
        if self.term is not None:
            try:
                self.term.check(mask=self.mask, cross=role == "cross")
            except FieldError as error:
                raise FieldError(f"term.{error.field}", error.fact, error.wish, error.hint) from None

    def exact(self) -> MixerSpec | None:
        changes: dict[str, object] = {}
        if (mask := patterns.filled(self.mask)) != self.mask:
            changes["mask"] = mask
        if self.term is not None and self.term.approximates:
            changes["term"] = None
        if self.scores.normaliser.approximates:
            changes["scores"] = self.scores.replace(normaliser=SoftmaxSpec())
        return self.replace(**changes) if changes else None

    def build(self, *, d_model: int, layer: int, d_memory: int | None = None) -> nn.Module:
        groups = self.num_kv_heads or self.num_heads
        d_head = self.d_head or d_model // self.num_heads
        widths = {"none": None, "head": (d_head, d_head), "full": (self.num_heads * d_head, groups * d_head)}
        norms = widths[self.qk_norm]
        attention = self.made(
            d_model=d_model,
            num_heads=self.num_heads,
            num_kv_heads=groups,
            d_head=d_head,
            rule=self.scores.build(num_heads=self.num_heads, d_head=d_head, layer=layer),
            mask=self.mask.in_layer(layer),
            rotary=self.rotary if d_memory is None else None,
            qk_norm=None if norms is None else (self.norm.build(norms[0]), self.norm.build(norms[1])),
            bias=("q", "k", "v", "out") if self.bias is True else self.bias or (),
            d_memory=d_memory,
        )
        attention.dropout = self.dropout
        if self.term is not None:
            attention.rule.add(self.term.of(attention))
        return attention
