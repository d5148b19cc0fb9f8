"""Mistral: Llama with every layer, or none, seeing a window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attnlib.attention.softmax import SoftmaxAttentionSpec
from attnlib.models.spec import ModelSpec
from attnlib.pretrained.decoders import FULL, SLIDING, window_of
from attnlib.pretrained.families.llama import TINY, Llama
from attnlib.pretrained.family import HFConfig, Sample


class Mistral(Llama):
    """Jiang et al. 2023 (arXiv:2310.06825)."""

    name = "mistral"
    model_types = ("mistral",)
    architectures = {
        "MistralForCausalLM": "lm", "MistralModel": "none", "MistralForSequenceClassification": "classify",
        "MistralForTokenClassification": "tag", "MistralForQuestionAnswering": "span",
    }  # fmt: skip
    defaults = {"num_key_value_heads": 8, "sliding_window": 4096}
    unsaid = frozenset({"attention_bias", "mlp_bias"})
    tops = {"none": ""}

    def kinds(self, config: HFConfig) -> tuple[str, ...]:
        return (FULL if self.window(config) is None else SLIDING,) * config.get("num_hidden_layers", int)

    def keys(self, spec: ModelSpec, attentions: tuple[SoftmaxAttentionSpec, ...]) -> dict[str, Any]:
        return {**super().keys(spec, attentions), "sliding_window": window_of(attentions[0].mask)}

    def samples(self) -> Mapping[str, Sample]:
        yarn = {"rope_theta": 500.0, "rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 8}
        return {
            **self.variants(TINY, {
                "window": {"sliding_window": 5},
                "no window, wide heads": {"sliding_window": None, "head_dim": 8, "num_key_value_heads": 1},
                "no grouping, tied": {"sliding_window": 7, "num_key_value_heads": 4, "tie_word_embeddings": True},
                "yarn": {"sliding_window": None, "rope_parameters": yarn},
            }),
            **self.labelled({**TINY, "sliding_window": 6}),
        }  # fmt: skip
