"""What every output head is: read off the stream by one function, and the layer of its own that it may have first."""

from __future__ import annotations

from typing import ClassVar, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from attnlib.errors import LayoutError
from attnlib.layout import Layout
from attnlib.nn.feed_forward import ACTIVATIONS, Activation
from attnlib.nn.linear import Linear
from attnlib.nn.norms import Norm
from attnlib.spec import FieldError, Spec

Place = Tensor | slice | None


class Readings(NamedTuple):
    """logits: [B, T, V] or [N, V] of tokens, or [B, L] of a text. pooled: [B, M] before the labels of a text.

    text_logits: [B, L] of the text, from a head that reads tokens and the text.
    """

    logits: Tensor | None = None
    pooled: Tensor | None = None
    text_logits: Tensor | None = None


class Head(nn.Module):
    """A token head reads x [.., M] wherever asked and gives logits [.., V].

    One that `pools` reads whole texts x [B, T, M] and gives Readings; what it reads of tokens it reads `at` a place.
    """

    pools: ClassVar[bool] = False

    def forward(self, x: Tensor, table: Tensor, layout: Layout) -> Tensor | Readings:
        """`table` [V, E] is the token embedding, for heads that are tied to it."""
        raise NotImplementedError


def read_head(head: Head | None, x: Tensor, table: Tensor, layout: Layout, at: Place, wanted: bool) -> Readings:
    """What a head gives for the stream x [B, T, M]; token heads read it `at` a bool [B, T] or some columns."""
    if head is None or not wanted:
        return Readings()
    if head.pools:
        return head(x, table, layout, at)  # type: ignore[no-any-return]
    return Readings(head(chosen(x, at), table, layout))


def chosen(x: Tensor, at: Place) -> Tensor:
    """x [B, T, M], or its columns [B, N, M] in a slice, or its tokens [N, M] where a bool [B, T] says so."""
    if at is None:
        return x
    if isinstance(at, slice):
        return x[:, at]
    if at.dtype == torch.bool and at.shape != x.shape[:2]:
        raise LayoutError("at", f"has shape {tuple(at.shape)}", f"must be a slice, or a bool {tuple(x.shape[:2])}")
    return x[at]


def transformed(x: Tensor, dense: nn.Module | None, activation: Activation, norm: nn.Module | None) -> Tensor:
    """norm(act(dense(x))), the hidden layer of a head; x itself where there is none."""
    if dense is None:
        return x
    y = ACTIVATIONS[activation](dense(x))
    return y if norm is None else norm(y)


class HeadSpec(Spec, slot="head"):
    """What is read off the stream."""

    def check(self, *, d_model: int, d_embedding: int) -> None:
        """Raises FieldError, naming a field of this spec, where it cannot stand over these widths."""

    def build(self, *, d_model: int, vocab_size: int, d_embedding: int) -> Head | None:
        raise NotImplementedError


class NoHeadSpec(HeadSpec, kind="none"):
    """A headless model: `last` is its result."""

    def build(self, *, d_model: int, vocab_size: int, d_embedding: int) -> Head | None:
        return None


class LabelledSpec(HeadSpec):
    """A head of num_labels logits; `labels` are their names in order, where they are known."""

    num_labels: int = Field(ge=1)
    labels: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _named(self) -> Self:
        if self.labels and len(self.labels) != self.num_labels:
            raise FieldError("labels", f"names {len(self.labels)}", f"wish num_labels of them ({self.num_labels})")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """A name a logit: that of `labels`, or LABEL_0, LABEL_1, ..."""
        return self.labels or tuple(f"LABEL_{i}" for i in range(self.num_labels))


class HiddenSpec(HeadSpec):
    """A head with norm(act(dense(.))) first where `hidden` says so; hidden_bias: of the dense."""

    hidden: bool = False
    activation: Activation = "gelu"
    norm: Norm | None = None
    hidden_bias: bool = True

    def layer(self, d_model: int) -> tuple[Linear | None, nn.Module | None]:
        """The dense and the norm of the hidden layer."""
        if not self.hidden:
            return None, None
        return Linear(d_model, d_model, bias=self.hidden_bias), None if self.norm is None else self.norm.build(d_model)
