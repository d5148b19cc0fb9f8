"""Blocks: sublayers around a residual stream, wired as the field wires them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from attnlib.attention import (  # noqa: F401  (kinds of mixers)
    beside,
    differential,
    forgetting,
    gated,
    latent,
    linear,
    linformer,
    local_global,
    nystrom,
    recurrent,
)
from attnlib.attention.caches import Memory
from attnlib.attention.scope import Scope
from attnlib.attention.softmax import MixerSpec, Role
from attnlib.layout import Layout
from attnlib.nn.conv import ConvBranch, ConvSpec
from attnlib.nn.feed_forward import FeedForward
from attnlib.nn.norms import Norm, RMSNormSpec
from attnlib.spec import FieldError, Spec

Placement = Literal["pre", "post", "branch", "sandwich", "parallel"]


class Sublayer(nn.Module):
    """outer(x + dropout(after(body(before(x))))): the norms that are there say how it is wired.

    Without `residual` it gives only what it would add, as a parallel block wants it.
    """

    def __init__(
        self,
        body: nn.Module,
        *,
        before: nn.Module | None = None,
        after: nn.Module | None = None,
        outer: nn.Module | None = None,
        dropout: float = 0.0,
        residual: bool = True,
    ) -> None:
        super().__init__()
        self.before, self.body, self.after, self.outer = before, body, after, outer
        self.dropout, self.residual = dropout, residual

    def branch(self, x: Tensor, call: Callable[[Tensor], Tensor]) -> Tensor:
        """What the sublayer adds to the stream."""
        y = call(x if self.before is None else self.before(x))
        if self.after is not None:
            y = self.after(y)
        return F.dropout(y, self.dropout) if self.dropout and self.training else y

    def forward(self, x: Tensor, call: Callable[[Tensor], Tensor]) -> Tensor:
        y = self.branch(x, call)
        x = x + y if self.residual else y
        return x if self.outer is None else self.outer(x)


class Block(nn.Module):
    """attention, then cross-attention if there is one, then the feed-forward; in parallel both read the same x.

    `conv` adds what neighbours in the block's input give to its output.
    """

    def __init__(
        self,
        *,
        attention: Sublayer,
        cross: Sublayer | None = None,
        mlp: Sublayer | None = None,
        conv: ConvBranch | None = None,
        parallel: bool = False,
        norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.norm = norm  # parallel with one norm for both
        self.attention, self.cross, self.mlp, self.conv = attention, cross, mlp, conv
        self.parallel = parallel
        self.feed = _routed if mlp is not None and getattr(mlp.body, "routes", False) else _alone

    def forward(self, x: Tensor, layout: Layout, scope: Scope, *, memory: Memory | None = None, cache: Any = None) -> Tensor:
        """x [B, T, M] -> [B, T, M]; `memory` is this layer's own keep of the encoder."""
        y = self._sublayers(x, layout, scope, memory, cache)
        return y if self.conv is None else self.conv(x, y, layout)

    def _sublayers(self, x: Tensor, layout: Layout, scope: Scope, memory: Memory | None, cache: Any) -> Tensor:
        def attend(y: Tensor) -> Tensor:
            return self.attention.body(y, layout, scope, cache=cache)  # type: ignore[no-any-return]

        def feed(y: Tensor) -> Tensor:
            return self.feed(self.mlp.body, y, layout, scope)  # type: ignore[union-attr]

        if self.parallel and self.mlp is not None:
            y = x if self.norm is None else self.norm(x)
            return x + self.attention(y, attend) + self.mlp(y, feed)  # type: ignore[no-any-return]
        x = self.attention(x, attend)
        if self.cross is not None:
            body = self.cross.body
            x = self.cross(x, lambda y: body(y, layout, scope, memory=memory))
        return x if self.mlp is None else self.mlp(x, feed)


def _alone(body: nn.Module, y: Tensor, layout: Layout, scope: Scope) -> Tensor:
    """A feed-forward that reads each token alone."""
    return body(y)  # type: ignore[no-any-return]


def _routed(body: nn.Module, y: Tensor, layout: Layout, scope: Scope) -> Tensor:
    """One that notes for the whole forward where it sent the tokens."""
    return body(y, layout, scope.routed)  # type: ignore[no-any-return]


class BlockSpec(Spec):
    """One layer. placement: where norms stand; share_norm: parallel with one norm; dropout: of what is added to x.

    mlp_dropout: of what the mlp adds, null = as dropout. attention_norm: false leaves attention without a norm
    (ModernBERT's first layer, where the embedding has one). conv: a convolution over the block's input, added to its output
    (DeBERTa-v2's first layer); for encoders, since it reads tokens to come and keeps no cache.
    """

    placement: Placement = "pre"
    norm: Norm | None = RMSNormSpec()
    attention: MixerSpec
    cross: MixerSpec | None = None
    mlp: FeedForward | None = None
    attention_norm: bool = True
    share_norm: bool = False
    conv: ConvSpec | None = None
    dropout: float = Field(default=0.0, ge=0, lt=1)
    mlp_dropout: float | None = Field(default=None, ge=0, lt=1)

    @model_validator(mode="after")
    def _wired(self) -> Self:
        if self.placement == "parallel" and (self.cross is not None or self.mlp is None):
            raise FieldError("placement", "parallel", "takes attention and mlp, and no cross")
        if self.share_norm and self.placement != "parallel":
            raise FieldError("share_norm", f"true under placement {self.placement}", "only parallel shares a norm")
        if self.share_norm and not self.attention_norm:
            raise FieldError("attention_norm", "false beside share_norm", "wish one of the two")
        return self

    def check(self, *, d_model: int, path: str, decodes: bool = False) -> None:
        """Raises FieldError, its field below `path`, where a part cannot stand in a model of this width, or in a decoder."""
        mixers: tuple[tuple[Role, str, MixerSpec | None], ...] = (
            ("self", "attention", self.attention),
            ("cross", "cross", self.cross),
        )
        for role, name, mixer in mixers:
            try:
                if mixer is not None:
                    mixer.check(d_model=d_model, role=role)
                    if decodes and role == "self":
                        mixer.check_decoding()
            except FieldError as error:
                raise FieldError(f"{path}.{name}.{error.field}", error.fact, error.wish, error.hint) from None
        if self.conv is not None and d_model % self.conv.groups:
            raise FieldError(f"{path}.conv.groups", str(self.conv.groups), f"must divide d_model ({d_model})")
        if decodes and self.conv is not None:
            raise FieldError(f"{path}.conv", "in a decoder", "it reads tokens to come and keeps no cache")

    def build(self, *, d_model: int, layer: int, d_memory: int | None = None) -> Block:
        shared = self.share_norm and self.norm is not None
        mlp_dropout = self.dropout if self.mlp_dropout is None else self.mlp_dropout

        def around(body: nn.Module, normed: bool = True, dropout: float = self.dropout) -> Sublayer:
            def norm(*places: str) -> nn.Module | None:
                here = self.placement in places and self.norm is not None and not shared and normed
                return self.norm.build(d_model) if here and self.norm is not None else None

            return Sublayer(
                body,
                before=norm("pre", "sandwich", "parallel"),
                after=norm("branch", "sandwich"),
                outer=norm("post"),
                dropout=dropout,
                residual=self.placement != "parallel",
            )

        return Block(
            attention=around(self.attention.build(d_model=d_model, layer=layer), self.attention_norm),
            cross=None
            if self.cross is None
            else around(self.cross.build(d_model=d_model, layer=layer, d_memory=d_memory or d_model)),
            mlp=None if self.mlp is None else around(self.mlp.build(d_model), dropout=mlp_dropout),
            conv=None if self.conv is None else self.conv.build(d_model),
            parallel=self.placement == "parallel",
            norm=self.norm.build(d_model) if shared and self.norm is not None else None,
        )
