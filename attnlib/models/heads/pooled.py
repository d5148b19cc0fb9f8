"""Heads over whole texts: classes, vectors, and whether one text follows another."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from attnlib.layout import Layout
from attnlib.models.heads.base import Head, HeadSpec, HiddenSpec, LabelledSpec, Place, Readings, transformed
from attnlib.nn.feed_forward import Activation
from attnlib.nn.linear import Linear

Pooling = Literal["first", "last", "mean"]
Problem = Literal["single_label", "multi_label", "regression"]


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
    """Pools a text, optionally through norm(act(dense(.))), then projects: [B, T, M] -> [B, L], or [B, M] without labels.

    Dropout acts before the dense (`hidden_dropout`) and before the labels.
    """

    pools = True

    def __init__(
        self,
        *,
        pooling: Pooling,
        dense: nn.Module | None = None,
        activation: Activation = "tanh",
        norm: nn.Module | None = None,
        project: nn.Module | None = None,
        dropout: float = 0.0,
        hidden_dropout: float = 0.0,
        normalise: bool = False,
    ) -> None:
        super().__init__()
        self.pooling, self.activation, self.normalise = pooling, activation, normalise
        self.dropout, self.hidden_dropout = dropout, hidden_dropout
        self.dense, self.norm, self.project = dense, norm, project

    def pooled(self, x: Tensor, layout: Layout) -> Tensor:
        """[B, M] before the labels."""
        y = F.dropout(pool(x, layout, self.pooling), self.hidden_dropout, self.training)
        y = transformed(y, self.dense, self.activation, self.norm)
        return F.normalize(y, dim=-1) if self.normalise else y

    def forward(self, x: Tensor, table: Tensor, layout: Layout, at: Place = None) -> Readings:
        y = self.pooled(x, layout)
        logits = y if self.project is None else self.project(F.dropout(y, self.dropout, self.training))
        return Readings(logits, y)


class _PoolingSpec(HiddenSpec):
    """The words of heads that read one token through a hidden layer, as BERT's pooler does."""

    pooling: Pooling = "first"
    hidden: bool = True
    activation: Activation = "tanh"
    dropout: float = Field(default=0.0, ge=0, lt=1)
    hidden_dropout: float = Field(default=0.0, ge=0, lt=1)

    def head(self, d_model: int, labels: int, *, bias: bool = True) -> PooledHead:
        dense, norm = self.layer(d_model)
        return PooledHead(
            pooling=self.pooling,
            dense=dense,
            activation=self.activation,
            norm=norm,
            project=Linear(d_model, labels, bias=bias) if labels else None,
            dropout=self.dropout,
            hidden_dropout=self.hidden_dropout,
        )


class ClassifyHeadSpec(LabelledSpec, _PoolingSpec, kind="classify"):
    """One of num_labels for a whole text; hidden: norm(act(dense(.))) first, by default tanh, as BERT's pooler.

    labels: their names. problem: how logits are read, as one of the labels (softmax), any of them (sigmoid each) or
    numbers; null = one of them, and with a single label whether it holds. dropout: before the labels; hidden_dropout:
    before the dense; hidden_bias, bias: of the dense, of the labels."""

    problem: Problem | None = None
    bias: bool = True

    def build(self, *, d_model: int, vocab_size: int, d_embedding: int) -> Head | None:
        return self.head(d_model, self.num_labels, bias=self.bias)


class NextSentenceHeadSpec(_PoolingSpec, kind="next_sentence"):
    """Whether the second text of a pair follows the first: two logits after the pooler (yes, no)."""

    def build(self, *, d_model: int, vocab_size: int, d_embedding: int) -> Head | None:
        return self.head(d_model, 2)


class PoolerHeadSpec(_PoolingSpec, kind="pooler"):
    """BERT's pooler alone: `pooled` is act(dense(.)) of the first token."""

    def build(self, *, d_model: int, vocab_size: int, d_embedding: int) -> Head | None:
        return self.head(d_model, 0)


class EmbedHeadSpec(HeadSpec, kind="embed"):
    """A vector for a whole text, by default the normalised mean."""

    pooling: Pooling = "mean"
    normalise: bool = True

    def build(self, *, d_model: int, vocab_size: int, d_embedding: int) -> Head | None:
        return PooledHead(pooling=self.pooling, normalise=self.normalise)
