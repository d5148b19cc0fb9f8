"""What all mixers over a matrix state have in common: heads, short convolution, direction, cache, output."""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from attnlib.attention.caches import LayerCache, Memory, Slots
from attnlib.attention.exact import exact, unmixed
from attnlib.attention.linear.scan import Made, chunk_of, scan
from attnlib.attention.linear.short_conv import ShortConv
from attnlib.attention.linear.steps import Steps
from attnlib.attention.linear.texts import Texts
from attnlib.attention.masks import Everything, Mask, Retention, terms
from attnlib.attention.rotary import Rotary
from attnlib.attention.scope import Scope
from attnlib.attention.softmax import MixerSpec, Role
from attnlib.attention.state_cache import StateCache
from attnlib.layout import Layout
from attnlib.nn.linear import Linear
from attnlib.nn.norms import RMSNorm
from attnlib.spec import FieldError


class Heads(NamedTuple):
    """H query heads over G states, of keys (width D) and values (width E); shared: so few q and k for all states."""

    num: int
    kv: int
    d_key: int
    d_value: int
    shared: int | None = None


class LinearMixer(nn.Module):
    """y_t = S_t^T q_t over a state S [B, G, D, E] that each token changes: x [B, T, M] -> [B, T, M].

    A mask of everything adds the same scan over the text in reverse. Kinds say how q, k, v become steps (`steps`); what is
    `gated` multiplies its normed heads by silu(W x).
    """

    stateful = True  # its cache is a state: no columns of the past
    why_no_weights = "keeps sums of signed products: no token has a share in them"
    normed: ClassVar[bool] = True
    gated: ClassVar[bool] = False
    activation: ClassVar[bool] = True  # of the short convolution
    made: Made | None = None  # see `scan`; what is no token comes to it with k, v and decay 0

    def __init__(
        self,
        *,
        d_model: int,
        heads: Heads,
        mask: Mask | None = None,
        conv: int | None = None,
        rotary: Rotary | None = None,
        bias: tuple[str, ...] = (),
        d_memory: int | None = None,
    ) -> None:
        super().__init__()
        self.heads, self.num_heads, self.mask, self.rotary = heads, heads.num, mask or Everything(), rotary
        self.causal = terms(self.mask).after == 0
        source = d_model if d_memory is None else d_memory
        self.q = Linear(d_model, (heads.shared or heads.num) * heads.d_key, bias="q" in bias)
        self.k = Linear(source, (heads.shared or heads.kv) * heads.d_key, bias="k" in bias)
        self.v = Linear(source, heads.kv * heads.d_value, bias="v" in bias)
        self.out = Linear(heads.num * heads.d_value, d_model, bias="out" in bias)
        widths = [self.q.out_features, self.k.out_features, self.v.out_features]
        self.widths = widths
        self.conv = None if conv is None else ShortConv(sum(widths), kernel=conv, activation=self.activation)
        self.norm = RMSNorm(heads.d_value) if self.normed else None
        self.gate = Linear(d_model, heads.num * heads.d_value, bias=False) if self.gated else None
        self.path = "attention"

    def forward(
        self,
        x: Tensor,
        layout: Layout | None = None,
        scope: Scope | None = None,
        *,
        memory: Memory | None = None,
        cache: StateCache | None = None,
    ) -> Tensor:
        layout = layout or Layout.dense(x.shape[0], x.shape[1], device=x.device)
        held = {} if cache is None else cache.held
        flat, left = self._flat(x, layout, held)
        with unmixed(x):
            q, k, v = (exact(self._split(t, width)) for t, width in zip(flat, self._head_widths()))
            y, state = self.mix(x, q, k, v, layout, scope or Scope(), held)
        if cache is not None:
            cache.held = {name: t.contiguous() for name, t in (state | left).items()}  # no view of what is larger
        return self.finish(x, Texts.of(layout).keep(y.to(flat[0].dtype), 2))

    def _flat(self, x: Tensor, layout: Layout, held: dict[str, Tensor]) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Projected q, k, v [B, T, heads * width], and what the convolution leaves to later tokens."""
        flat = [self.q(x), self.k(x), self.v(x)]
        if self.conv is None:
            return flat, {}
        joined, tail = self.conv(torch.cat(flat, -1), layout, held.get("tail"))
        return list(joined.split(self.widths, -1)), {"tail": tail}

    def _head_widths(self) -> tuple[int, int, int]:
        return self.heads.d_key, self.heads.d_key, self.heads.d_value

    @staticmethod
    def _split(flat: Tensor, width: int) -> Tensor:
        """[B, T, heads * width] -> [B, heads, T, width]."""
        return flat.unflatten(-1, (-1, width)).transpose(1, 2)  # type: ignore[no-any-return]

    # -- what kinds say ---------------------------------------------------------------------------------------------

    def steps(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Steps:
        """What the tokens do to the state, or what `made` makes it of; q [B, H, T, D], k [B, G, T, D], v [B, G, T, E]."""
        raise NotImplementedError

    def mix(
        self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, layout: Layout, scope: Scope, held: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """y [B, H, T, E] and what is left to later tokens, after what was `held`."""
        q, k = self.turned(q, k, layout, scope)
        steps = self.steps(x, q, k, v)
        y, state = self.run(steps, layout, held.get("state"), self.made)
        return y, {"state": state}

    def finish(self, x: Tensor, y: Tensor) -> Tensor:
        """Heads y [B, H, T, E], normed and gated, to [B, T, M]."""
        y = y.transpose(1, 2)
        y = (y if self.norm is None else self.norm(y).to(y.dtype)).flatten(2)
        return self.out(y if self.gate is None else y * F.silu(self.gate(x)))  # type: ignore[no-any-return]

    # -- for them ---------------------------------------------------------------------------------------------------

    def turned(self, q: Tensor, k: Tensor, layout: Layout, scope: Scope) -> tuple[Tensor, Tensor]:
        """Turned by their positions, under rotary."""
        if self.rotary is None:
            return q, k
        turn = self.rotary.table(layout, q.shape[-1], q.dtype, scope.lengths)
        return self.rotary.turn(q, turn), self.rotary.turn(k, turn)

    def grouped(self, q: Tensor) -> Tensor:
        """[B, H, T, D] -> [B, G, R, T, D]."""
        return q.unflatten(1, (self.heads.kv, -1))  # type: ignore[no-any-return]

    def run(self, steps: Steps, layout: Layout, state: Tensor | None, made: Made | None = None) -> tuple[Tensor, Tensor]:
        """y [B, H, T, E] and the state, forward or both ways; what is no token leaves the state as it is."""
        texts = Texts.of(layout)
        steps = _kept(steps, texts)
        y, state = scan(steps, state, texts.runs, made=made)
        if not self.causal:
            again, _ = scan(steps.flip(), None, Texts.backward(layout).runs, made=made)
            y = y + again.flip(3)
        return y.flatten(1, 2), state

    def remember(self, x: Tensor, layout: Layout) -> Memory:
        raise NotImplementedError

    def keeps(self) -> Retention:
        return Retention(0, 0)

    def new_cache(self, slots: Slots) -> LayerCache:
        return StateCache()

    @property
    def in_words(self) -> str:
        """What it is, for `explain`."""
        heads = f"{type(self).__name__}, {self.heads.num} heads over {self.heads.kv} states of {self.heads.d_key} x"
        conv = "" if self.conv is None else ", a short convolution"
        return f"{heads} {self.heads.d_value}{conv}"

    def how(self, layout: Layout, memory: Memory | None, cache: StateCache | None) -> str:
        """What computes these tokens, for `explain`."""
        if layout.tokens <= 1 and Texts.of(layout).runs is None:
            return "one step of the state"
        ways = "scan" if self.causal else "scans forward and back"
        return f"{ways} in chunks of {chunk_of(layout.tokens)}"

    def extra_repr(self) -> str:
        grouped = "" if self.heads.kv == self.heads.num else f", num_kv_heads={self.heads.kv}"
        return f"num_heads={self.heads.num}{grouped}, d_head={self.heads.d_key}, d_value={self.heads.d_value}, {self.mask!r}"


def _kept(steps: Steps, texts: Texts) -> Steps:
    return Steps(steps.q, *(None if t is None else texts.keep(t, 2) for t in steps[1:]))  # type: ignore[arg-type]


class LinearMixerSpec(MixerSpec):
    """num_kv_heads, d_head as in softmax attention; d_value: width of the values, null = d_head.

    mask: causal, or everything: both directions. conv: tokens that a short causal convolution of q, k, v reads, null = none.
    """

    num_heads: int = Field(ge=1)
    num_kv_heads: int | None = Field(default=None, ge=1)
    d_head: int | None = Field(default=None, ge=1)
    d_value: int | None = Field(default=None, ge=1)
    mask: Mask = Everything()
    rotary: Rotary | None = None
    bias: bool | tuple[Literal["q", "k", "v", "out"], ...] = False
    conv: int | None = Field(default=None, ge=1, le=64)
    mixer: ClassVar[type[LinearMixer]]
    crosses: ClassVar[bool] = False

    @model_validator(mode="after")
    def _groups(self) -> Self:
        if self.num_kv_heads is not None and self.num_heads % self.num_kv_heads:
            raise FieldError("num_kv_heads", str(self.num_kv_heads), f"must divide num_heads ({self.num_heads})")
        return self

    def sizes(self, d_model: int) -> Heads:
        """Numbers and widths of the heads in a model."""
        d_head = self.d_head or d_model // self.num_heads
        return Heads(self.num_heads, self.num_kv_heads or self.num_heads, d_head, self.d_value or d_head)

    def check(self, *, d_model: int, role: Role) -> None:
        if self.d_head is None and d_model % self.num_heads:
            raise FieldError("num_heads", str(self.num_heads), f"must divide d_model ({d_model})", "or give d_head")
        check_direction(self.mask, self.kind)
        if role == "cross" and not self.crosses:
            refuse_cross(self.kind)
        if role == "cross" and terms(self.mask).after == 0:
            raise FieldError("mask", "causal in cross-attention", "a source is read whole: wish everything")
        if role == "cross" and self.conv is not None:
            raise FieldError("conv", "in cross-attention", "joins neighbours in one text, and q and k are of two")
        if self.rotary is not None:
            self.rotary.check(self.sizes(d_model).d_key)

    def build(self, *, d_model: int, layer: int, d_memory: int | None = None) -> nn.Module:
        return self.mixer(
            d_model=d_model,
            heads=self.sizes(d_model),
            mask=self.mask,
            conv=self.conv,
            rotary=self.rotary if d_memory is None else None,
            bias=("q", "k", "v", "out") if self.bias is True else self.bias or (),
            d_memory=d_memory,
        )


def check_direction(mask: Mask, kind: str) -> None:
    """Refuse a mask that a recurrence cannot keep: its state has summed all that came before."""
    form = terms(mask)
    if form.before is not None or form.rest is not None or form.after not in (None, 0):
        raise FieldError("mask", f"of kind {mask.kind} for {kind}", "a state sums all tokens: wish causal or everything",
                         "softmax attention takes any mask")  # fmt: skip


def refuse_cross(kind: str) -> None:
    """Refuse a recurrence as cross-attention."""
    raise FieldError("kind", kind, "orders and forgets by its own text, and a source has no place in that order",
                     "wish softmax, linear or performer")  # fmt: skip
