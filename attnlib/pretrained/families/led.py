"""LED: BART whose encoder sees windows and global tokens, with positions of their own for either stack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attnlib.attention.local_global import LocalGlobalSpec
from attnlib.models.encoder_decoder import EncoderDecoderSpec
from attnlib.models.stack import StackSpec
from attnlib.nn.embeddings import LearnedSpec
from attnlib.pretrained.families.bart import Bart
from attnlib.pretrained.families.longformer import GLOBAL_NAMES, windowed, windows_config
from attnlib.pretrained.family import HFConfig, Sample
from attnlib.pretrained.parts import part
from attnlib.pretrained.rules import Rename
from attnlib.pretrained.seq2seq import stack_rules

LENGTHS = {"encoder": ("max_encoder_position_embeddings", 16384), "decoder": ("max_decoder_position_embeddings", 1024)}
NAMES = {"query": "q", "key": "k", "value": "v", **GLOBAL_NAMES}


class LED(Bart):
    """Beltagy et al. 2020 (arXiv:2004.05150)."""

    name = "led"
    model_types = ("led",)
    architectures = {"LEDForConditionalGeneration": "lm", "LEDModel": "none"}
    uncovered = "answers, the decoder alone, layerdrop"
    prefix = "led."

    def spec_from(self, config: HFConfig) -> EncoderDecoderSpec:
        made = super().spec_from(config)
        positions = {side: LearnedSpec(max_length=config.get(key, int, usual)) for side, (key, usual) in LENGTHS.items()}
        return made.replace(
            embedding=made.embedding.replace(position=positions["encoder"]),
            decoder_embedding=made.embedding.replace(position=positions["decoder"]),
            encoder=windowed(made.encoder, config),
        )

    def tables_config(self, spec: EncoderDecoderSpec) -> dict[str, Any]:
        sides = {"encoder": spec.embedding, "decoder": spec.decoder_embedding or spec.embedding}
        lengths = {
            LENGTHS[side][0]: part(embedding.position, LearnedSpec, f"model.{side}.position").max_length
            for side, embedding in sides.items()
        }
        return {**super().tables_config(spec), **lengths, **windows_config(spec.encoder, "model.encoder.block.attention")}

    def block_rules(self, stack: StackSpec, theirs: str, ours: str) -> list[Rename]:
        if not isinstance(stack.layers[0].attention, LocalGlobalSpec):
            return super().block_rules(stack, theirs, ours)
        names = {f"longformer_self_attn.{name}": mine for name, mine in NAMES.items()}
        return stack_rules(stack, theirs, ours, {**names, "output": "out"})

    def base(self) -> dict[str, Any]:
        shared = {key: value for key, value in super().base().items() if key != "max_position_embeddings"}
        return {
            **shared, "max_encoder_position_embeddings": 32, "max_decoder_position_embeddings": 22, "attention_window": 4,
        }  # fmt: skip

    def samples(self) -> Mapping[str, Sample]:
        made = {name: sample._replace(attention="eager") for name, sample in super().samples().items()}
        lm = made["plain"]
        by_layer = lm._replace(config={**lm.config, "attention_window": [4, 8]})
        return {name: sample for name, sample in made.items() if name != "scaled"} | {"windows by layer": by_layer}
