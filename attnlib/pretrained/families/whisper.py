"""Whisper: an encoder over log-mel features through two convolutions, a decoder that writes what was said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attnlib.errors import CheckpointError
from attnlib.models.encoder_decoder import EncoderDecoderSpec
from attnlib.models.heads import LMHeadSpec, NoHeadSpec
from attnlib.models.spec import ModelSpec
from attnlib.nn.embeddings import EmbeddingSpec, LearnedSpec, SinusoidalSpec
from attnlib.nn.features import ConvFeaturesSpec
from attnlib.nn.init import Normal
from attnlib.pretrained.family import Family, HFConfig, Sample
from attnlib.pretrained.rules import Alias, Rename, Rule, Tied, renames
from attnlib.pretrained.seq2seq import Wiring, stack_config, stack_from, stack_rules
from attnlib.pretrained.table import Table

WIRING = Wiring(
    placement="pre", final_norm=True, bias=("q", "v", "out"), layers=4, ffn_dim=1536, attention_heads=6, dropout=0.0
)


class Whisper(Family):
    """Radford et al. 2022 (arXiv:2212.04356)."""

    name = "whisper"
    model_types = ("whisper",)
    architectures = {"WhisperForConditionalGeneration": "lm", "WhisperModel": "none"}
    positions = "none"
    uncovered = "classes of sounds, SpecAugment, layerdrop"

    def spec_from(self, config: HFConfig) -> EncoderDecoderSpec:
        for key, allowed in (("scale_embedding", False), ("apply_spec_augment", False), ("tie_word_embeddings", True)):
            config.only(key, (allowed,))
        drop, places = config.get("dropout", float, WIRING.dropout), config.get("max_source_positions", int, 1500)
        features = ConvFeaturesSpec(
            channels=config.get("num_mel_bins", int, 80),
            position=SinusoidalSpec(order="half_split", closed=True, max_length=places, stored=True),
            dropout=drop,
        )
        position = LearnedSpec(max_length=config.get("max_target_positions", int, 448))
        headless = self.architectures[self.architecture(config)] == "none"
        return EncoderDecoderSpec(
            d_model=config.get("d_model", int, 384),
            vocab_size=config.get("vocab_size", int),
            features=features,
            embedding=EmbeddingSpec(position=position, dropout=drop),
            encoder=stack_from(config, "encoder", WIRING),
            decoder=stack_from(config, "decoder", WIRING),
            decoder_start=config.get("decoder_start_token_id", int, 50257),
            head=NoHeadSpec() if headless else LMHeadSpec(),
            init=Normal(scale=config.get("init_std", float, 0.02)),
        )

    def config_from(self, spec: ModelSpec) -> dict[str, Any]:
        if not isinstance(spec, EncoderDecoderSpec) or not isinstance(spec.features, ConvFeaturesSpec):
            raise CheckpointError("model.features", "are none of kind conv", "wish a whisper model")
        places, written = spec.features.position, spec.embedding.position
        if not isinstance(places, SinusoidalSpec) or not isinstance(written, LearnedSpec):
            fact = "are not sinusoids of the sound and learned of the text"
            raise CheckpointError("model: positions", fact, "wish a whisper model")
        tree = {
            "model_type": "whisper",
            "architectures": [self.architecture_of(spec)],
            "is_encoder_decoder": True,
            "vocab_size": spec.vocab_size,
            "d_model": spec.d_model,
            "num_mel_bins": spec.features.channels,
            "max_source_positions": places.max_length,
            "max_target_positions": written.max_length,
            "decoder_start_token_id": spec.decoder_start,
            **stack_config(spec.encoder, "encoder"),
            **stack_config(spec.decoder, "decoder"),
            **({"init_std": spec.init.scale} if isinstance(spec.init, Normal) else {}),
        }
        self.say(spec, tree)
        return tree

    def table(self, spec: ModelSpec) -> Table:
        if not isinstance(spec, EncoderDecoderSpec):
            raise CheckpointError("model", f"is of kind {spec.kind!r}", "wish an encoder_decoder")
        headless = isinstance(spec.head, NoHeadSpec)
        top = "" if headless else "model."
        rules: list[Rule | Tied] = [
            *renames(f"{top}encoder.", "features.", {"conv1": "convs.0", "conv2": "convs.1"}),
            Rename(f"{top}encoder.embed_positions.weight", "features.position.table"),
            Rename(f"{top}decoder.embed_tokens.weight", "embedding.token.weight"),
            Rename(f"{top}decoder.embed_positions.weight", "embedding.position.weight"),
            *stack_rules(spec.encoder, f"{top}encoder.", "encoder."),
            *stack_rules(spec.decoder, f"{top}decoder.", "decoder."),
            *renames(top, "", {"encoder.layer_norm": "encoder.final_norm", "decoder.layer_norm": "decoder.final_norm"}),
        ]
        if not headless:
            rules.append(Tied("proj_out.weight", "embedding.token.weight"))
        sides = ("encoder.{*}", "decoder.{*}")
        return Table(rules, [Alias(f"model.{name}", name) if headless else Alias(name, f"model.{name}") for name in sides])

    def samples(self) -> Mapping[str, Sample]:
        base = {
            "vocab_size": 67, "d_model": 32, "encoder_layers": 2, "decoder_layers": 3, "encoder_ffn_dim": 40,
            "decoder_ffn_dim": 44, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_mel_bins": 6,
            "max_source_positions": 11, "max_target_positions": 20, "pad_token_id": 1, "bos_token_id": 2,
            "eos_token_id": 3, "decoder_start_token_id": 2, "suppress_tokens": None, "begin_suppress_tokens": None,
        }  # fmt: skip
        other = {**base, "num_mel_bins": 9, "encoder_attention_heads": 4, "d_model": 24, "activation_function": "relu"}
        return {
            "plain": Sample("WhisperForConditionalGeneration", base),
            "more bins, odd heads": Sample("WhisperForConditionalGeneration", other),
            "headless": Sample("WhisperModel", base),
        }
