"""Output heads: from the residual stream to logits or a vector."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from attnlib.layout import Layout
from attnlib.nn.feed_forward import ACTIVATIONS, Activation
from attnlib.nn.linear import Linear, linear
from attnlib.nn.norms import LayerNormSpec, Norm
from attnlib.spec import FieldError, Spec

Pooling = Literal["first", "last", "mean"]
Problem = Literal["single_label", "multi_label", "regression"]


class Head(nn.Module):
    """Token heads read x [.., M] wherever asked; pooled heads read a whole text [B, T, M] -> [B, ..]."""

    pools: ClassVar[bool] = False

    def forward(self, x: Tensor, table: Tensor, layout: Layout) -> Tensor:
        """`table` [V, E] is the token embedding, for heads that are tied to it."""
        raise NotImplementedError


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


class Vocabulary(nn.Module):
    """softcap(scale * x W^T + b) with W [V, E] its own or the embedding's."""

    def __init__(
        self, width: int, vocab_size: int, *, tied: bool, bias: bool, scale: float = 1.0, softcap: float | None = None
    ) -> None:
        super().__init__()
        self.weight = None if tied else nn.Parameter(torch.empty(vocab_size, width))
        if self.weight is not None:
            nn.init.normal_(self.weight, std=0.02)
        self.bias = nn.Parameter(torch.zeros(vocab_size)) if bias else None
        self.scale, self.softcap = scale, softcap

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        if self.scale != 1.0:
            x = x * self.scale
        logits = linear(x, table if self.weight is None else self.weight, self.bias)
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)


class LMHead(Head):
    """Next-token logits [.., V]."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.vocabulary = vocabulary

    def forward(self, x: Tensor, table: Tensor, layout: Layout) -> Tensor:
        return self.vocabulary(x, table)  # type: ignore[no-any-return]


class LMHeadSpec(HeadSpec, kind="lm"):
    """Next-token logits.

    tied: to the token embedding. scale: a number or inverse_sqrt of d_model (T5). softcap: c * tanh(logits / c)."""

    tied: bool = True
    bias: bool = False
    scale: float | Literal["inverse_sqrt"] = 1.0
    softcap: float | None = Field(default=None, gt=0)

    def check(self, *, d_model: int, d_embedding: int) -> None:
        if self.tied and d_embedding != d_model:
            fact = f"true, over an embedding of width {d_embedding} and a stream of {d_model}"
            raise FieldError("head.tied", fact, "wish false, or head: masked_lm, which projects")

    def build(self, *, d_model: int, vocab_size: int, d_embedding: int) -> Head | None:
        scale = d_model**-0.5 if self.scale == "inverse_sqrt" else float(self.scale)
        width = d_embedding if self.tied else d_model
        return LMHead(Vocabulary(width, vocab_size, tied=self.tied, bias=self.bias, scale=scale, softcap=self.softcap))


class MaskedLMHead(Head):
    """vocabulary(norm(act(dense(x)))): the transform of BERT before the vocabulary [.., V]."""

    def __init__(self, *, d_model: int, width: int, activation: Activation, norm: nn.Module, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.dense = Linear(d_model, width)
        self.norm, self.vocabulary, self.activation = norm, vocabulary, activation

    def forward(self, x: Tensor, table: Tensor, layout: Layout) -> Tensor:
        return self.vocabulary(self.norm(ACTIVATIONS[self.activation](self.dense(x))), table)  # type: ignore[no-any-return]


class MaskedLMHeadSpec(HeadSpec, kind="masked_lm"):
    """BERT's: transform to the embedding's width, norm, tied vocabulary with its own bias."""

    tied: bool = True
    activation: Activation = "gelu"
    norm: Norm = LayerNormSpec(eps=1e-12)

    def build(self, *, d_model: int, vocab_size: int, d_embedding: int) -> Head | None:
        return MaskedLMHead(
            d_model=d_model,
            width=d_embedding,
            activation=self.activation,
            norm=self.norm.build(d_embedding),
            vocabulary=Vocabulary(d_embedding, vocab_size, tied=self.tied, bias=True),
        )


def pool(x: Tensor, layout: Layout, how: Pooling) -> Tensor:
    """[B, T, M] -> [B, M]: the first or last real token of each row, or the mean of all."""
    real = layout.real
    if how == "mean":
        if real is None:
            return x.mean(1)
        weights = real.to(x.dtype)[..., None]
        return (x * weights).sum(1) / weights.sum(1).clamp(min=1)
    if real is None:
        return x[:, 0 if how == "first" else -1]
    columns = torch.arange(layout.tokens, device=x.device)
    at = torch.where(real, columns, layout.tokens).argmin(1) if how == "first" else torch.where(real, columns, -1).argmax(1)
    return x[torch.arange(x.shape[0], device=x.device), at]


class PooledHead(Head):
    """Pools a text, optionally through act(dense(.)), then projects: [B, T, M] -> [B, L], or [B, M] without labels."""

    pools = True

    def __init__(
        self,
        *,
        d_model: int,
        labels: int,
        pooling: Pooling,
        hidden: bool,
        bias: bool = True,
        dropout: float = 0.0,
        normalise: bool = False,
    ) -> None:
        super().__init__()
        self.pooling, self.dropout, self.normalise = pooling, dropout, normalise
        self.dense = Linear(d_model, d_model) if hidden else None
        self.project = Linear(d_model, labels, bias=bias) if labels else None

    def pooled(self, x: Tensor, layout: Layout) -> Tensor:
        """[B, M] before the labels."""
        y = pool(x, layout, self.pooling)
        if self.dense is not None:
            y = torch.tanh(self.dense(y))
        return F.normalize(y, dim=-1) if self.normalise else y

    def forward(self, x: Tensor, table: Tensor, layout: Layout) -> Tensor:
        y = self.pooled(x, layout)
        if self.dropout and self.training:
            y = F.dropout(y, self.dropout)
        return y if self.project is None else self.project(y)


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


class ClassifyHeadSpec(LabelledSpec, kind="classify"):
    """One of num_labels for a whole text; hidden: tanh(dense(.)) first, as BERT's pooler; bias: of the labels' logits.

    labels: their names. problem: how logits are read, as one of the labels (softmax), any of them (sigmoid each) or
    numbers; null = one of them, and with a single label whether it holds."""

    pooling: Pooling = "first"
    hidden: bool = True
    bias: bool = True
    dropout: float = Field(default=0.0, ge=0, lt=1)
    problem: Problem | None = None

    def build(self, *, d_model: int, vocab_size: int, d_embedding: int) -> Head | None:
        return PooledHead(
            d_model=d_model,
            labels=self.num_labels,
            pooling=self.pooling,
            hidden=self.hidden,
            bias=self.bias,
            dropout=self.dropout,
        )


class EmbedHeadSpec(HeadSpec, kind="embed"):
    """A vector for a whole text, by default the normalised mean."""

    pooling: Pooling = "mean"
    normalise: bool = True

    def build(self, *, d_model: int, vocab_size: int, d_embedding: int) -> Head | None:
        return PooledHead(d_model=d_model, labels=0, pooling=self.pooling, hidden=False, normalise=self.normalise)


class TokenHead(Head):
    """L logits a token."""

    def __init__(self, *, d_model: int, labels: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.project = Linear(d_model, labels)
        self.dropout = dropout

    def forward(self, x: Tensor, table: Tensor, layout: Layout) -> Tensor:
        return self.project(F.dropout(x, self.dropout, self.training))  # type: ignore[no-any-return]


class TagHeadSpec(LabelledSpec, kind="tag"):
    """One of num_labels for each token; labels: their names."""

    dropout: float = Field(default=0.0, ge=0, lt=1)

    def build(self, *, d_model: int, vocab_size: int, d_embedding: int) -> Head | None:
        return TokenHead(d_model=d_model, labels=self.num_labels, dropout=self.dropout)


class SpanHeadSpec(HeadSpec, kind="span"):
    """Start and end logits for each token, as extractive question answering reads them."""

    def build(self, *, d_model: int, vocab_size: int, d_embedding: int) -> Head | None:
        return TokenHead(d_model=d_model, labels=2)
