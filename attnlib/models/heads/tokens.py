"""Heads that label each token: tags, answers, replaced tokens."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from attnlib.layout import Layout
from attnlib.models.heads.base import Head, HiddenSpec, LabelledSpec, transformed
from attnlib.nn.feed_forward import Activation
from attnlib.nn.linear import Linear


class TokenHead(Head):
    """L logits a token, optionally after norm(act(dense(.))); dropout acts before the labels."""

    def __init__(
        self,
        *,
        d_model: int,
        labels: int,
        dense: nn.Module | None = None,
        activation: Activation = "gelu",
        norm: nn.Module | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.dense, self.norm, self.activation, self.dropout = dense, norm, activation, dropout
        self.project = Linear(d_model, labels)

    def forward(self, x: Tensor, table: Tensor, layout: Layout) -> Tensor:
        y = transformed(x, self.dense, self.activation, self.norm)
        return self.project(F.dropout(y, self.dropout, self.training))  # type: ignore[no-any-return]


class _TokenSpec(HiddenSpec):
    """The words of heads over single tokens."""

    dropout: float = Field(default=0.0, ge=0, lt=1)

    def head(self, d_model: int, labels: int) -> TokenHead:
        dense, norm = self.layer(d_model)
        return TokenHead(
            d_model=d_model, labels=labels, dense=dense, activation=self.activation, norm=norm, dropout=self.dropout
        )


class TagHeadSpec(LabelledSpec, _TokenSpec, kind="tag"):
    """One of num_labels for each token; labels: their names."""

    def build(self, *, d_model: int, vocab_size: int, d_embedding: int) -> Head | None:
        return self.head(d_model, self.num_labels)


class SpanHeadSpec(_TokenSpec, kind="span"):
    """Start and end logits for each token, as extractive question answering reads them."""

    def build(self, *, d_model: int, vocab_size: int, d_embedding: int) -> Head | None:
        return self.head(d_model, 2)


class RTDHeadSpec(_TokenSpec, kind="rtd"):
    """Whether each token was replaced: one logit after act(dense(.)) (Clark et al. 2020, ELECTRA's discriminator)."""

    hidden: bool = True

    def build(self, *, d_model: int, vocab_size: int, d_embedding: int) -> Head | None:
        return self.head(d_model, 1)
