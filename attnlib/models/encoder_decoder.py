"""EncoderDecoder: T5-style, a decoder that also attends to an encoder's output."""

from __future__ import annotations

from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from attnlib.layout import Layout
from attnlib.models.heads import Head, HeadSpec, LMHead, LMHeadSpec, Place, read_head
from attnlib.models.output import Output, read_layout
from attnlib.models.spec import ModelSpec
from attnlib.models.stack import Stack, StackSpec, shortest
from attnlib.models.state import DecodingState
from attnlib.nn.embeddings import Embedding, EmbeddingSpec
from attnlib.nn.features import Features, FeaturesSpec
from attnlib.nn.init import initialise
from attnlib.spec import FieldError


class EncoderDecoder(nn.Module):
    """encoder over source ids [B, S]; decoder over ids [B, T] whose cross-attention reads the encoder's output.

    With a front end for `features` the source is no ids, but features [B, C, frames], and its layout that of S places.
    """

    def __init__(
        self,
        *,
        embedding: Embedding,
        encoder: Stack,
        decoder: Stack,
        head: Head | None,
        decoder_embedding: Embedding | None = None,
        features: Features | None = None,
        spec: EncoderDecoderSpec | None = None,
    ) -> None:
        super().__init__()
        self.embedding, self.encoder, self.decoder, self.head, self.spec = embedding, encoder, decoder, head, spec
        self.decoder_embedding = decoder_embedding  # None: both read the same table
        self.features = features  # None: the encoder reads ids through the embedding
        self.rereads = not isinstance(head, LMHead | None) and features is None  # the head tells of the source

    @property
    def max_length(self) -> int | None:
        """Longest text in tokens that the decoder writes; None = no bound."""
        return (self.decoder_embedding or self.embedding).max_length

    @property
    def max_source_length(self) -> int | None:
        """Most places of a source; None = no bound."""
        front = self.features or self.embedding
        return shortest(front.max_length, self.encoder.max_length, self.decoder.max_source_length)

    def encode(
        self,
        ids: Tensor | None = None,
        layout: Layout | None = None,
        *,
        attention_mask: Tensor | None = None,
        embeds: Tensor | None = None,
        hidden: bool = False,
    ) -> tuple[Output, Layout]:
        """The encoder's output over the source [B, S], and where its tokens stand."""
        if self.features is not None and ids is not None and embeds is None:
            embeds, ids = self.features.read(ids), None
        layout = read_layout(ids, layout, attention_mask, embeds, name="source ids")
        x = (self.features or self.embedding)(ids, layout, embeds=embeds)
        x, stream, aux = self.encoder(x, layout, hidden=hidden)
        return Output(x, hidden=stream, aux=aux), layout

    def forward(
        self,
        ids: Tensor | None = None,
        decoder_ids: Tensor | None = None,
        layout: Layout | None = None,
        decoder_layout: Layout | None = None,
        *,
        attention_mask: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        embeds: Tensor | None = None,
        decoder_embeds: Tensor | None = None,
        at: Place = None,
        head: bool = True,
        hidden: bool = False,
    ) -> Output:
        """A head that tells of the source (classes, spans) needs no decoder_ids: the decoder reads the source again."""
        source, layout = self.encode(ids, layout, attention_mask=attention_mask, embeds=embeds, hidden=hidden)
        if self.rereads and ids is not None and decoder_ids is None and decoder_embeds is None:
            decoder_ids, decoder_layout = self.again(ids, layout), decoder_layout or layout
        decoder_layout = read_layout(decoder_ids, decoder_layout, decoder_attention_mask, decoder_embeds, name="decoder_ids")
        memory = self.decoder.remember(source.last, layout)
        table = self.decoder_embedding or self.embedding
        x = table(decoder_ids, decoder_layout, embeds=decoder_embeds)
        x, stream, aux = self.decoder(x, decoder_layout, memory=memory, hidden=hidden)
        aux = {name: source.aux.get(name, 0.0) + aux.get(name, 0.0) for name in {**source.aux, **aux}}
        read = read_head(self.head, x, table.token.weight, decoder_layout, at, head)
        return Output(x, read.logits, stream, read.pooled, source, aux, text_logits=read.text_logits)

    def again(self, ids: Tensor, layout: Layout) -> Tensor:
        """The source [B, S] for the decoder: each text one place to the right, behind the start id."""
        start = 0 if self.spec is None else self.spec.decoder_start
        return ids.roll(1, 1).masked_fill(layout.positions == 0, start)

    def begin(
        self,
        source_ids: Tensor | None = None,
        layout: Layout | None = None,
        *,
        attention_mask: Tensor | None = None,
        embeds: Tensor | None = None,
        cache: str = "growing",
        capacity: int | None = None,
        batch: int | None = None,
    ) -> DecodingState:
        """Encode the source [B, S] once; keys and values of every cross-attention are made here and kept."""
        source, layout = self.encode(source_ids, layout, attention_mask=attention_mask, embeds=embeds)
        state = self.decoder.new_state(layout.batch, cache=cache, capacity=capacity, device=source.last.device)
        state.memory = self.decoder.remember(source.last, layout)
        return state

    def step(self, ids: Tensor, layout: Layout | None, state: DecodingState, *, at: Place = slice(-1, None)) -> Tensor:
        """Append T decoder tokens ids [B, T] to every row; logits [B, 1, V] of the last, or those `at`."""
        layout = layout or state.following(ids.shape[1])
        state.count(layout)
        layout = read_layout(ids, layout, None, None, name="decoder_ids")
        table = self.decoder_embedding or self.embedding
        x = self.decoder(table(ids, layout), layout, state=state).last
        logits = read_head(self.head, x, table.token.weight, layout, at, True).logits
        assert isinstance(logits, torch.Tensor)
        return logits


class EncoderDecoderSpec(ModelSpec, kind="encoder_decoder"):
    """A T5-style pair.

    decoder_vocab_size or decoder_embedding: null = both read one table. share_tokens: a decoder_embedding of its own
    positions, norm and scale reads the encoder's token table. decoder_start: first id.

    features: the encoder reads [B, channels, frames] through this, and `embedding` is the decoder's."""

    encoder: StackSpec
    decoder: StackSpec
    head: HeadSpec = LMHeadSpec()
    features: FeaturesSpec | None = None
    decoder_embedding: EmbeddingSpec | None = None
    share_tokens: bool = False
    decoder_vocab_size: int | None = Field(default=None, ge=1)
    decoder_start: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if any(layer.cross is None for layer in self.decoder.layers):
            raise FieldError("decoder", "a block has no cross-attention", "every block of this decoder needs `cross`")
        if any(layer.cross is not None for layer in self.encoder.layers):
            raise FieldError("encoder", "has cross-attention", "there is nothing for it to read")
        if self.decoder_vocab_size is not None and self.decoder_embedding is None:
            raise FieldError("decoder_vocab_size", "given without decoder_embedding", "two vocabularies need two tables")
        if self.features is not None and self.decoder_embedding is not None:
            raise FieldError("decoder_embedding", "given beside features", "`embedding` is the decoder's then")
        if self.share_tokens:
            self._check_shared()
        self.encoder.check(d_model=self.d_model, path="encoder")
        self.decoder.check(d_model=self.d_model, path="decoder", decodes=True)
        written = self.decoder_embedding or self.embedding
        self.head.check(d_model=self.decoder.d_out or self.d_model, d_embedding=written.d_embedding or self.d_model)
        return self

    def _check_shared(self) -> None:
        if self.decoder_embedding is None:
            raise FieldError("share_tokens", "true without decoder_embedding", "without one both read one table already")
        if self.decoder_vocab_size not in (None, self.vocab_size):
            raise FieldError("share_tokens", "true over two vocabularies", "leave out decoder_vocab_size")
        if (self.decoder_embedding.d_embedding or self.d_model) != (self.embedding.d_embedding or self.d_model):
            raise FieldError("share_tokens", "true over tables of unlike width", "give both the same d_embedding")

    def build(self) -> EncoderDecoder:
        vocab = self.decoder_vocab_size or self.vocab_size
        embedding, own = self.embedding.build(vocab_size=self.vocab_size, d_model=self.d_model), None
        if self.decoder_embedding is not None:
            token = embedding.token if self.share_tokens else None
            own = self.decoder_embedding.build(vocab_size=vocab, d_model=self.d_model, token=token)
        width = (self.decoder_embedding or self.embedding).d_embedding or self.d_model
        model = EncoderDecoder(
            embedding=embedding,
            encoder=self.encoder.build(d_model=self.d_model, path="encoder"),
            decoder=self.decoder.build(d_model=self.d_model, d_memory=self.encoder.d_out or self.d_model, path="decoder"),
            head=self.head.build(d_model=self.decoder.d_out or self.d_model, vocab_size=vocab, d_embedding=width),
            decoder_embedding=own,
            features=None if self.features is None else self.features.build(self.d_model),
            spec=self,
        )
        initialise(model, self.init, self.encoder.num_layers + self.decoder.num_layers)
        return model
