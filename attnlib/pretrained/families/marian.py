"""Marian (OPUS-MT): BART without a norm after the embedding, with sinusoids; two languages may have two vocabularies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attnlib.models.encoder_decoder import EncoderDecoderSpec
from attnlib.models.heads import LMHeadSpec, NoHeadSpec
from attnlib.models.spec import ModelSpec
from attnlib.nn.embeddings import PositionSpec, SinusoidalSpec
from attnlib.pretrained.families.bart import LM_HEAD, SIDES, Bart
from attnlib.pretrained.family import HFConfig, Sample
from attnlib.pretrained.rules import Ignore, Rename, Rule, Tied


class Marian(Bart):
    """Junczys-Dowmunt et al. 2018 (arXiv:1804.00344), Tiedemann & Thottingal 2020 (OPUS-MT)."""

    name = "marian"
    model_types = ("marian",)
    architectures = {"MarianMTModel": "lm", "MarianModel": "none"}
    embedding_norm = False
    start = 58100

    def spec_from(self, config: HFConfig) -> EncoderDecoderSpec:
        shared, source = self._shares(config), config.get("vocab_size", int)
        if shared:
            config.only("decoder_vocab_size", (source,))
        written = config.get("decoder_vocab_size", int, source)
        return super().spec_from(config).replace(share_tokens=shared, decoder_vocab_size=None if shared else written)

    def _shares(self, config: HFConfig) -> bool:
        return config.get("share_encoder_decoder_embeddings", bool, True)

    def tied_from(self, config: HFConfig) -> bool:
        return super().tied_from(config) if self._shares(config) else config.get("tie_word_embeddings", bool, True)

    def position_from(self, config: HFConfig) -> PositionSpec:
        stored = self.architecture(config) == "MarianModel"  # the other class neither needs nor writes the tables
        most = config.get("max_position_embeddings", int, 1024)
        return SinusoidalSpec(order="half_split", max_length=most, stored=stored)

    def tables_config(self, spec: EncoderDecoderSpec) -> dict[str, Any]:
        return {
            "share_encoder_decoder_embeddings": spec.share_tokens,
            "decoder_vocab_size": spec.decoder_vocab_size or spec.vocab_size,
            "tie_word_embeddings": not isinstance(spec.head, LMHeadSpec) or spec.head.tied,
        }

    def token_rules(self, spec: EncoderDecoderSpec, top: str) -> list[Rule | Tied | Ignore]:
        if spec.share_tokens:
            return super().token_rules(spec, top)
        return [Rename(f"{top}{side}.embed_tokens.weight", f"{ours}token.weight") for side, ours in SIDES.items()]

    def position_rules(self, spec: EncoderDecoderSpec, theirs: str, ours: str) -> list[Rule | Tied | Ignore]:
        if isinstance(spec.head, NoHeadSpec):
            return [Rename(theirs, f"{ours}position.table")]
        return [Ignore(theirs, "computed from max_position_embeddings")]

    def untied(self, spec: ModelSpec, theirs: str) -> ModelSpec:
        apart = isinstance(spec, EncoderDecoderSpec) and not spec.share_tokens
        if theirs != LM_HEAD or not apart or not isinstance(spec.head, LMHeadSpec):
            return super().untied(spec, theirs)
        return spec.replace(head=spec.head.replace(tied=False))

    def samples(self) -> Mapping[str, Sample]:
        two = {**self.base(), "share_encoder_decoder_embeddings": False, "decoder_vocab_size": 71}
        return {
            **super().samples(),
            "swish": Sample("MarianMTModel", {**self.base(), "activation_function": "swish", "scale_embedding": True}),
            "two vocabularies": Sample("MarianMTModel", two),
            "three tables": Sample("MarianMTModel", {**two, "tie_word_embeddings": False}),
            "headless, two vocabularies": Sample("MarianModel", two),
        }
