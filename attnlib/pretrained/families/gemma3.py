"""Gemma 3 (text): Gemma 2 with no cap on scores, norms on queries and keys, two rotary bases; every sixth layer sees all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attnlib.attention.masks import Everything, Mask, Window, terms
from attnlib.attention.rotary import Rotary
from attnlib.attention.scores import ScoresSpec
from attnlib.attention.softmax import SoftmaxAttentionSpec
from attnlib.errors import CheckpointError
from attnlib.models.decoder import DecoderSpec
from attnlib.models.spec import ModelSpec
from attnlib.pretrained.decoders import FULL, SLIDING, window_of
from attnlib.pretrained.families.gemma2 import NEAR, Gemma2, every
from attnlib.pretrained.families.llama import TINY, Llama
from attnlib.pretrained.family import HFConfig, Sample
from attnlib.pretrained.rope import rotary_from

BOTH = "use_bidirectional_attention"


class Gemma3(Gemma2):
    """Gemma team 2025 (arXiv:2503.19786)."""

    name = "gemma3"
    model_types = ("gemma3_text",)
    architectures = {
        "Gemma3ForCausalLM": "lm", "Gemma3TextModel": "none", "Gemma3TextForSequenceClassification": "classify",
    }  # fmt: skip
    defaults = {
        **Gemma2.defaults, "attn_logit_softcapping": None, "final_logit_softcapping": None, "sliding_window_pattern": 6,
        "rope_theta": 1000000.0, "rope_local_base_freq": 10000.0,
    }  # fmt: skip
    qk_norms = True
    uncovered = "images"

    def spec_from(self, config: HFConfig) -> DecoderSpec:
        if config.get("attn_logit_softcapping", float, None) is not None:
            raise CheckpointError(f"{config.where}: attn_logit_softcapping", "is set", "wish null", "not built here")
        return Llama.spec_from(self, config)

    def kinds(self, config: HFConfig) -> tuple[str, ...]:
        period = config.get("sliding_window_pattern", int)
        if period < 1:
            raise CheckpointError(f"{config.where}: sliding_window_pattern", f"is {period}", "wish at least 1")
        return every(config, period)

    def mask(self, config: HFConfig, kind: str) -> Mask:
        causal = super().mask(config, kind)
        if not config.get(BOTH, bool, False):
            return causal
        half = config.get("sliding_window", int) // 2
        return Window(before=half, after=half) if kind == SLIDING else Everything()

    def rotary(self, config: HFConfig, kind: str) -> Rotary:
        if kind == FULL:
            return rotary_from(config, FULL)
        return rotary_from(config.without({"rope_scaling"}), SLIDING, theta="rope_local_base_freq")

    def attention(self, config: HFConfig, kind: str) -> SoftmaxAttentionSpec:
        return super().attention(config, kind).replace(qk_norm="head", norm=self.norm(config))

    def scores(self, config: HFConfig) -> ScoresSpec:
        return super().scores(config).replace(softcap=None)

    def keys(self, spec: ModelSpec, attentions: tuple[SoftmaxAttentionSpec, ...]) -> dict[str, Any]:
        said = super().keys(spec, attentions)
        bounds = [terms(attention.mask) for attention in attentions]
        if both := any(bound.after != 0 for bound in bounds):
            said["sliding_window"] = 2 * max(bound.before or 0 for bound in bounds)
        return {**said, BOTH: both}

    def rope(self, attentions: Sequence[SoftmaxAttentionSpec]) -> dict[str, Any]:
        sliding = [attention for attention in attentions if window_of(attention.mask) is not None]
        full = super().rope([attention for attention in attentions if window_of(attention.mask) is None])
        ropes = {FULL: full["rope_parameters"], SLIDING: super().rope(sliding)["rope_parameters"]}
        return {**full, "rope_parameters": ropes}

    def samples(self) -> Mapping[str, Sample]:
        tiny = {**TINY, "head_dim": 6, "sliding_window": 5, "query_pre_attn_scalar": 16, "sliding_window_pattern": 2}
        scaled = {FULL: {"rope_theta": 500.0, "rope_type": "linear", "factor": 8.0}, SLIDING: NEAR | {"rope_theta": 60.0}}
        capped = {"final_logit_softcapping": 3.0, "query_pre_attn_scalar": 7, "tie_word_embeddings": False}
        both = {"headless, both ways": Sample("Gemma3TextModel", {**tiny, BOTH: True, "sliding_window": 8})}
        return {
            **self.variants(tiny, {
                "grouped, scaled": {"rope_parameters": scaled},
                "wide heads, one layer in three": {
                    "num_key_value_heads": 1, "head_dim": 10, "sliding_window_pattern": 3, "attention_bias": True,
                },
                "capped logits, untied": {**capped, "rope_parameters": scaled, "layer_types": [FULL, FULL, SLIDING]},
            }),
            **self.labelled({**tiny, "num_key_value_heads": 4}),
            **both,
        }  # fmt: skip
