"""Encoder: BERT-style, every token sees every other."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator
from torch import Tensor, nn

from attnlib.layout import Layout
from attnlib.models.heads import Head, Place, read_head
from attnlib.models.output import Output, read_layout
from attnlib.models.spec import ModelSpec
from attnlib.models.stack import Stack, StackSpec, shortest
from attnlib.nn.embeddings import Embedding
from attnlib.nn.init import initialise
from attnlib.spec import FieldError


class Encoder(nn.Module):
    """embedding -> stack -> head over ids [B, T], or over embeds [B, T, E]."""

    def __init__(self, *, embedding: Embedding, stack: Stack, head: Head | None, spec: EncoderSpec | None = None) -> None:
        super().__init__()
        self.embedding, self.stack, self.head, self.spec = embedding, stack, head, spec

    @property
    def max_length(self) -> int | None:
        """Longest text in tokens; None = no bound."""
        return shortest(self.embedding.max_length, self.stack.max_length)

    def forward(
        self,
        ids: Tensor | None = None,
        layout: Layout | None = None,
        *,
        attention_mask: Tensor | None = None,
        embeds: Tensor | None = None,
        types: Tensor | None = None,
        at: Place = None,
        head: bool = True,
        hidden: bool = False,
    ) -> Output:
        layout = read_layout(ids, layout, attention_mask, embeds)
        x = self.embedding(ids, layout, embeds=embeds, types=types)
        x, stream, aux = self.stack(x, layout, hidden=hidden)
        read = read_head(self.head, x, self.embedding.token.weight, layout, at, head)
        return Output(x, read.logits, stream, read.pooled, aux=aux, text_logits=read.text_logits)


class EncoderSpec(ModelSpec, kind="encoder"):
    """A BERT-style encoder."""

    stack: StackSpec

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if any(layer.cross is not None for layer in self.stack.layers):
            raise FieldError("stack", "has cross-attention", "only the decoder of an encoder_decoder can feed it")
        self.stack.check(d_model=self.d_model, path="stack")
        out = self.stack.d_out or self.d_model
        self.head.check(d_model=out, d_embedding=self.embedding.d_embedding or self.d_model)
        return self

    def build(self) -> Encoder:
        embedding = self.embedding.build(vocab_size=self.vocab_size, d_model=self.d_model)
        stack = self.stack.build(d_model=self.d_model, path="encoder")
        width = self.embedding.d_embedding or self.d_model
        out = self.stack.d_out or self.d_model
        head = self.head.build(d_model=out, vocab_size=self.vocab_size, d_embedding=width)
        model = Encoder(embedding=embedding, stack=stack, head=head, spec=self)
        initialise(model, self.init, self.stack.num_layers)
        return model
