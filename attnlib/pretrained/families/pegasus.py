"""Pegasus: BART with its norms before each sublayer and after each stack, none after the embedding, and sinusoids."""

from __future__ import annotations

from attnlib.models.encoder_decoder import EncoderDecoderSpec
from attnlib.nn.embeddings import PositionSpec, SinusoidalSpec
from attnlib.pretrained.families.bart import Bart
from attnlib.pretrained.family import HFConfig
from attnlib.pretrained.rules import Ignore, Rename, Rule, Tied
from attnlib.pretrained.seq2seq import Wiring


class Pegasus(Bart):
    """Zhang et al. 2020 (arXiv:1912.08777)."""

    name = "pegasus"
    model_types = ("pegasus",)
    architectures = {"PegasusForConditionalGeneration": "lm", "PegasusModel": "none"}
    wiring = Wiring(placement="pre", final_norm=True)
    embedding_norm = False
    start = 0

    def position_from(self, config: HFConfig) -> PositionSpec:
        return SinusoidalSpec(order="half_split", max_length=config.get("max_position_embeddings", int, 1024), stored=True)

    def position_rules(self, spec: EncoderDecoderSpec, theirs: str, ours: str) -> list[Rule | Tied | Ignore]:
        return [Rename(theirs, f"{ours}position.table")]
