"""Multi-head latent attention: keys and values of all heads out of one narrow vector a token, which alone is cached."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from attnlib.attention.backends.protocol import AttentionCall
from attnlib.attention.masks import Everything, Mask
from attnlib.attention.products import DotSpec
from attnlib.attention.rotary import Rotary, Turn
from attnlib.attention.scope import Scope
from attnlib.attention.scores import ScoresSpec
from attnlib.attention.softmax import MixerSpec, Role, SoftmaxAttention
from attnlib.nn.linear import Linear
from attnlib.nn.norms import RMSNorm
from attnlib.spec import FieldError


class Latent(NamedTuple):
    """Widths: of the latent of keys and values, of each head's own key, of the key all heads share, of a value, and of the
    latent of queries, None = there is none."""

    latent: int
    key: int
    rope: int
    value: int
    query: int | None = None

    def absorbed(self, queries: int, keys: int) -> bool:
        """Whether fewer products are made when queries go into the latent than when it is expanded to keys and values."""
        up = self.latent * (self.key + self.value)
        expanded = keys * up + queries * keys * (self.key + self.rope + self.value)
        return queries * up + queries * keys * (2 * self.latent + self.rope) < expanded


class LatentAttention(SoftmaxAttention):
    """softmax((q k^T + q' k'^T) * scale) v with [k | v] of each head = U norm(D x), and k' = R x, one for all heads.

    DeepSeek-V2, arXiv:2405.04434: q' and k' are turned by rotary, the others not. A cache holds [norm(D x) | k'] of each
    token. With few queries U goes over to them: q (U_k c) = (q U_k) c, so that the latent itself is key and value of all
    heads and nothing is expanded; both forms are equal but for rounding, and shapes choose.
    """

    def __init__(self, *, d_model: int, sizes: Latent, d_memory: int | None = None, **given: Any) -> None:
        heads, width = given["num_heads"], sizes.key + sizes.rope
        super().__init__(d_model=d_model, num_kv_heads=heads, d_head=width, d_memory=d_memory, **given)
        del self.k, self.v
        self.sizes, self.d_turn = sizes, sizes.rope
        self.form: Literal["auto", "absorbed", "expanded"] = "auto"
        self.query_down = None if sizes.query is None else Linear(d_model, sizes.query, bias=False)
        self.query_norm = None if sizes.query is None else RMSNorm(sizes.query)
        self.q = Linear(sizes.query or d_model, heads * width, bias=False)
        self.down = Linear(d_model if d_memory is None else d_memory, sizes.latent + sizes.rope, bias=False)
        self.norm = RMSNorm(sizes.latent)
        self.up = Linear(sizes.latent, heads * (sizes.key + sizes.value), bias=False)
        self.out = Linear(heads * sizes.value, d_model, bias=False)

    def _queries(self, x: Tensor, turn: Turn | None, project: nn.Module | None = None) -> Tensor:
        if self.query_down is not None and self.query_norm is not None:
            x = self.query_norm(self.query_down(x)).to(x.dtype)
        q = self._heads(self.q(x), self.num_heads, self.q_norm)
        own, shared = q.split([self.sizes.key, self.sizes.rope], -1)
        return torch.cat([own, self._turned(shared, turn)], -1)

    def _entry(self, x: Tensor, turn: Turn | None) -> dict[str, Tensor]:
        latent, shared = self.down(x).unsqueeze(1).split([self.sizes.latent, self.sizes.rope], -1)
        return {"latent": torch.cat([self.norm(latent).to(shared.dtype), self._turned(shared, turn)], -1)}  # [B, 1, T, *]

    def _weigh(self, x: Tensor, q: Tensor, entry: dict[str, Tensor], call: AttentionCall, scope: Scope) -> Tensor:
        held, sizes = entry["latent"], self.sizes
        auto = sizes.absorbed(q.shape[2], held.shape[2])
        if self.form == "absorbed" or (self.form == "auto" and auto):
            return self._absorbed(q, held, call, scope)
        latent, shared = held.split([sizes.latent, sizes.rope], -1)
        k, v = self.up(latent[:, 0]).unflatten(-1, (self.num_heads, -1)).transpose(1, 2).split([sizes.key, sizes.value], -1)
        return self._attend(q, torch.cat([k, shared.expand(-1, self.num_heads, -1, -1)], -1), v, call, scope)

    def _absorbed(self, q: Tensor, held: Tensor, call: AttentionCall, scope: Scope) -> Tensor:
        sizes = self.sizes
        up = self.up.weight.to(q.dtype).unflatten(0, (self.num_heads, -1))  # [H, D + E, C]
        of_keys, of_values = up.split([sizes.key, sizes.value], 1)
        own, shared = q.split([sizes.key, sizes.rope], -1)
        # values as wide as keys: a view, where a narrower one would be copied to the width that kernels want
        y = self._attend(torch.cat([own @ of_keys, shared], -1), held, held, call, scope)
        return y[..., : sizes.latent] @ of_values.transpose(-1, -2)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, {self.sizes}, mask={self.mask!r}"


class LatentSpec(MixerSpec, kind="latent"):
    """Multi-head latent attention (DeepSeek-V2, 2024): one narrow vector a token is all that a cache holds.

    d_latent: of keys and values, null = 4 d_head; d_query_latent: of queries, null = none. d_head: of each head's own keys,
    null = d_model / num_heads; d_value: null = d_head. d_rope: of the key that all heads share, turned by `rotary`.
    """

    num_heads: int = Field(ge=1)
    d_latent: int | None = Field(default=None, ge=1)
    d_query_latent: int | None = Field(default=None, ge=1)
    d_head: int | None = Field(default=None, ge=1)
    d_rope: int = Field(default=0, ge=0)
    d_value: int | None = Field(default=None, ge=1)
    mask: Mask = Everything()
    rotary: Rotary | None = None
    scores: ScoresSpec = ScoresSpec()
    dropout: float = Field(default=0.0, ge=0, lt=1)

    def sizes(self, d_model: int) -> Latent:
        """Widths in a model."""
        d_head = self.d_head or d_model // self.num_heads
        return Latent(self.d_latent or 4 * d_head, d_head, self.d_rope, self.d_value or d_head, self.d_query_latent)

    def check(self, *, d_model: int, role: Role) -> None:
        if self.d_head is None and d_model % self.num_heads:
            raise FieldError("num_heads", str(self.num_heads), f"must divide d_model ({d_model})", "or give d_head")
        if not isinstance(self.scores.product, DotSpec):
            raise FieldError("scores.product", self.scores.product.kind, "the latent meets queries by dot products alone: "
                             "wish dot", "softmax attention takes any")  # fmt: skip
        if self.rotary is not None and not self.d_rope:
            raise FieldError("d_rope", "0 beside rotary", "there is nothing to turn: wish a width")
        if self.rotary is not None:
            self.rotary.check(self.d_rope)

    def build(self, *, d_model: int, layer: int, d_memory: int | None = None) -> nn.Module:
        sizes = self.sizes(d_model)
        attention = LatentAttention(
            d_model=d_model,
            sizes=sizes,
            num_heads=self.num_heads,
            rule=self.scores.build(num_heads=self.num_heads, d_head=sizes.key + sizes.rope, layer=layer),
            mask=self.mask.in_layer(layer),
            rotary=self.rotary if d_memory is None else None,
            d_memory=d_memory,
        )
        attention.dropout = self.dropout
        return attention
