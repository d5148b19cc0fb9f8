"""Heads over the vocabulary: next-token and masked-token logits."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from attnlib.layout import Layout
from attnlib.models.heads.base import Head, HeadSpec, transformed
from attnlib.nn.feed_forward import Activation
from attnlib.nn.linear import Linear, linear
from attnlib.nn.norms import LayerNormSpec, Norm
from attnlib.spec import FieldError


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

    def __init__(
        self, *, dense: nn.Module, activation: Activation, norm: nn.Module | None, vocabulary: Vocabulary
    ) -> None:
        super().__init__()
        self.dense, self.norm, self.vocabulary, self.activation = dense, norm, vocabulary, activation

    def forward(self, x: Tensor, table: Tensor, layout: Layout) -> Tensor:
        return self.vocabulary(transformed(x, self.dense, self.activation, self.norm), table)  # type: ignore[no-any-return]


class MaskedLMHeadSpec(HeadSpec, kind="masked_lm"):
    """BERT's: transform to the embedding's width, norm, tied vocabulary with its own bias.

    hidden_bias: of the transform's projection; bias: of the vocabulary."""

    tied: bool = True
    activation: Activation = "gelu"
    norm: Norm | None = LayerNormSpec(eps=1e-12)
    hidden_bias: bool = True
    bias: bool = True

    def build(self, *, d_model: int, vocab_size: int, d_embedding: int) -> Head | None:
        return MaskedLMHead(
            dense=Linear(d_model, d_embedding, bias=self.hidden_bias),
            activation=self.activation,
            norm=None if self.norm is None else self.norm.build(d_embedding),
            vocabulary=Vocabulary(d_embedding, vocab_size, tied=self.tied, bias=self.bias),
        )
