"""Gemma: a Llama with wide heads, a gated tanh-GELU, embeddings times sqrt(M) and norm weights kept as w - 1."""

from __future__ import annotations

from collections.abc import Mapping

from attnlib.models.decoder import DecoderSpec
from attnlib.nn.embeddings import EmbeddingSpec
from attnlib.nn.norms import RMSNormSpec
from attnlib.pretrained.families.llama import TINY, Llama
from attnlib.pretrained.family import HFConfig, Sample


class Gemma(Llama):
    """Gemma team 2024 (arXiv:2403.08295)."""

    name = "gemma"
    model_types = ("gemma",)
    architectures = {
        "GemmaForCausalLM": "lm", "GemmaModel": "none", "GemmaForSequenceClassification": "classify",
        "GemmaForTokenClassification": "tag",
    }  # fmt: skip
    defaults = {"head_dim": 256, "tie_word_embeddings": True}
    unsaid = frozenset({"mlp_bias"})
    activation = ("hidden_act", "gelu_pytorch_tanh")
    uncovered = "bidirectional attention"

    def spec_from(self, config: HFConfig) -> DecoderSpec:
        config.only("use_bidirectional_attention", (False,))
        if config.tree.get("hidden_act") == "gelu":  # what the first release says and does not mean
            config = HFConfig({**config.tree, "hidden_act": "gelu_pytorch_tanh"}, config.where)
        return super().spec_from(config)

    def embedding(self, config: HFConfig) -> EmbeddingSpec:
        return EmbeddingSpec(scale="sqrt")

    def norm(self, config: HFConfig) -> RMSNormSpec:
        return super().norm(config).replace(unit_offset=True)

    def samples(self) -> Mapping[str, Sample]:
        tiny = {**TINY, "head_dim": 6}
        wide = {"num_key_value_heads": 1, "head_dim": 10, "tie_word_embeddings": False}
        return {
            **self.variants(tiny, {
                "grouped": {}, "multi-query, wide heads, untied": wide, "biases": {"attention_bias": True},
            }),
            **self.labelled(tiny),
        }  # fmt: skip
