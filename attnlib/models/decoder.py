"""Decoder: GPT-style. The road of a batch through it:

1. `read_layout` says where every token stands (dense, padded, packed, or after what a state holds).
2. `Embedding` gives x [B, T, M].
3. `Stack` moves the caches' slots once, then hands x and the layout to each block.
4. `Block` wires attention and feed-forward around the stream.
5. `SoftmaxAttention` makes q, k, v, turns them by the layout's positions, lets the cache extend k and v,
6. looks up the `Visibility` of its mask between the two layouts, made by the first block of that mask,
7. and asks `choose` for a backend, which gives [B, H, T, D].
8. The final norm and the head give logits [B, T, V].
"""

from __future__ import annotations

from typing import Self

import torch
from pydantic import model_validator
from torch import Tensor, nn

from attnlib.layout import Layout
from attnlib.models.heads import Head, HeadSpec, LMHeadSpec, Place, read_head
from attnlib.models.output import Output, read_layout
from attnlib.models.spec import ModelSpec
from attnlib.models.stack import Stack, StackSpec
from attnlib.models.state import DecodingState
from attnlib.nn.embeddings import Embedding
from attnlib.nn.init import initialise
from attnlib.spec import FieldError


class Decoder(nn.Module):
    """embedding -> stack -> head over ids [B, T]; with a state, after what it holds."""

    def __init__(self, *, embedding: Embedding, stack: Stack, head: Head | None, spec: DecoderSpec | None = None) -> None:
        super().__init__()
        self.embedding, self.stack, self.head, self.spec = embedding, stack, head, spec

    @property
    def max_length(self) -> int | None:
        """Longest text in tokens; None = no bound."""
        return self.embedding.max_length

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
        state: DecodingState | None = None,
    ) -> Output:
        layout = read_layout(ids, layout, attention_mask, embeds, state)
        x = self.embedding(ids, layout, embeds=embeds, types=types)
        x, stream, aux = self.stack(x, layout, state=state, hidden=hidden)
        read = read_head(self.head, x, self.embedding.token.weight, layout, at, head)
        return Output(x, read.logits, stream, read.pooled, aux=aux, text_logits=read.text_logits)

    def begin(
        self,
        source_ids: Tensor | None = None,
        layout: Layout | None = None,
        *,
        batch: int | None = None,
        cache: str = "growing",
        capacity: int | None = None,
    ) -> DecodingState:
        """Empty caches for `batch` rows; there is no source to read."""
        rows = batch if batch is not None else 1 if source_ids is None else source_ids.shape[0]
        return self.stack.new_state(rows, cache=cache, capacity=capacity, device=self.embedding.token.weight.device)

    def step(self, ids: Tensor, layout: Layout | None, state: DecodingState, *, at: Place = slice(-1, None)) -> Tensor:
        """Append T tokens ids [B, T] to every row; logits [B, 1, V] of the last, or those `at`."""
        layout = layout or state.following(ids.shape[1])
        state.count(layout)
        logits = self(ids, layout, state=state, at=at).logits
        assert isinstance(logits, torch.Tensor)
        return logits


class DecoderSpec(ModelSpec, kind="decoder"):
    """A GPT-style decoder; its masks say causal, nothing else makes it so."""

    stack: StackSpec
    head: HeadSpec = LMHeadSpec()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if any(layer.cross is not None for layer in self.stack.layers):
            raise FieldError("stack", "has cross-attention", "only the decoder of an encoder_decoder can feed it")
        self.stack.check(d_model=self.d_model, path="stack", decodes=True)
        out = self.stack.d_out or self.d_model
        self.head.check(d_model=out, d_embedding=self.embedding.d_embedding or self.d_model)
        return self

    def build(self) -> Decoder:
        embedding = self.embedding.build(vocab_size=self.vocab_size, d_model=self.d_model)
        stack = self.stack.build(d_model=self.d_model, path="decoder")
        width = self.embedding.d_embedding or self.d_model
        out = self.stack.d_out or self.d_model
        head = self.head.build(d_model=out, vocab_size=self.vocab_size, d_embedding=width)
        model = Decoder(embedding=embedding, stack=stack, head=head, spec=self)
        initialise(model, self.init, self.stack.num_layers)
        return model
