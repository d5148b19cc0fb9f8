"""Gemma 2: norms around each branch with weights kept as w - 1, capped scores and logits, every second layer slides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attnlib.attention.scores import ScoresSpec
from attnlib.attention.softmax import SoftmaxAttentionSpec
from attnlib.models.block import BlockSpec
from attnlib.models.decoder import DecoderSpec
from attnlib.models.heads import LMHeadSpec
from attnlib.models.spec import ModelSpec
from attnlib.nn.embeddings import EmbeddingSpec
from attnlib.nn.norms import RMSNormSpec
from attnlib.pretrained.decoders import FULL, SLIDING, kinds_from, window_config
from attnlib.pretrained.families.llama import TINY, Llama
from attnlib.pretrained.family import HFConfig, Sample


class Gemma2(Llama):
    """Gemma team 2024 (arXiv:2408.00118)."""

    name = "gemma2"
    model_types = ("gemma2",)
    architectures = {
        "Gemma2ForCausalLM": "lm", "Gemma2Model": "none", "Gemma2ForSequenceClassification": "classify",
        "Gemma2ForTokenClassification": "tag",
    }  # fmt: skip
    defaults = {
        "num_key_value_heads": 4, "head_dim": 256, "sliding_window": 4096, "tie_word_embeddings": True,
        "query_pre_attn_scalar": 256, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
    }  # fmt: skip
    unsaid = frozenset({"mlp_bias"})
    activation = ("hidden_activation", "gelu_pytorch_tanh")
    norms = {
        "input_layernorm": "attention.before", "post_attention_layernorm": "attention.after",
        "pre_feedforward_layernorm": "mlp.before", "post_feedforward_layernorm": "mlp.after",
    }  # fmt: skip

    uncovered = "bidirectional attention"

    def spec_from(self, config: HFConfig) -> DecoderSpec:
        config.only("use_bidirectional_attention", (False,))
        return super().spec_from(config)

    def kinds(self, config: HFConfig) -> tuple[str, ...]:
        return every(config, 2)

    def embedding(self, config: HFConfig) -> EmbeddingSpec:
        return EmbeddingSpec(scale="sqrt")

    def lm(self, config: HFConfig) -> LMHeadSpec:
        return super().lm(config).replace(softcap=config.get("final_logit_softcapping", float, None))

    def norm(self, config: HFConfig) -> RMSNormSpec:
        return super().norm(config).replace(unit_offset=True)

    def block(self, config: HFConfig, kind: str) -> BlockSpec:
        return super().block(config, kind).replace(placement="sandwich")

    def attention(self, config: HFConfig, kind: str) -> SoftmaxAttentionSpec:
        return super().attention(config, kind).replace(scores=self.scores(config))

    def scores(self, config: HFConfig) -> ScoresSpec:
        scale = config.get("query_pre_attn_scalar", float) ** -0.5
        return ScoresSpec(scale=scale, softcap=config.get("attn_logit_softcapping", float, None))

    def keys(self, spec: ModelSpec, attentions: tuple[SoftmaxAttentionSpec, ...]) -> dict[str, Any]:
        said, scores, head = super().keys(spec, attentions), attentions[0].scores, spec.head
        more = {
            "query_pre_attn_scalar": said["head_dim"] if scores.scale is None else round(scores.scale**-2),
            "attn_logit_softcapping": scores.softcap,
            "final_logit_softcapping": head.softcap if isinstance(head, LMHeadSpec) else None,
        }
        return {**said, **window_config(attentions), **more}

    def samples(self) -> Mapping[str, Sample]:
        tiny = {**TINY, "head_dim": 6, "sliding_window": 5, "query_pre_attn_scalar": 16, "rope_parameters": NEAR}
        named = {"layer_types": [FULL, SLIDING, SLIDING], "query_pre_attn_scalar": 7}
        found = {
            **self.variants(tiny, {
                "grouped": {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
                "multi-query, wide heads, scores alone capped": {
                    "num_key_value_heads": 1, "head_dim": 10, "attn_logit_softcapping": 4.0, "final_logit_softcapping": None,
                },
                "layers slide by name, biases, untied": {
                    **named, "attention_bias": True, "tie_word_embeddings": False, "num_key_value_heads": 4,
                },
            }),
            **self.labelled(tiny),
        }  # fmt: skip
        return {name: sample._replace(attention="eager") for name, sample in found.items()}  # sdpa there caps nothing


def every(config: HFConfig, period: int) -> tuple[str, ...]:
    """The kind of every layer: each `period`-th sees all, the others slide."""
    layers = range(1, config.get("num_hidden_layers", int) + 1)
    return kinds_from(config, [SLIDING if i % period else FULL for i in layers])


NEAR = {"rope_theta": 500.0, "rope_type": "default"}
