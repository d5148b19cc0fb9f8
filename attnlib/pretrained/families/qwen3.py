"""Qwen3: Qwen2 without those biases, with a norm on the queries and keys of each head."""

from __future__ import annotations

from collections.abc import Mapping

from attnlib.attention.softmax import SoftmaxAttentionSpec
from attnlib.pretrained.families.llama import TINY
from attnlib.pretrained.families.qwen2 import Windowed
from attnlib.pretrained.family import HFConfig, Sample


class Qwen3(Windowed):
    """Yang et al. 2025 (arXiv:2505.09388)."""

    name = "qwen3"
    model_types = ("qwen3",)
    architectures = {
        "Qwen3ForCausalLM": "lm", "Qwen3Model": "none", "Qwen3ForSequenceClassification": "classify",
        "Qwen3ForTokenClassification": "tag", "Qwen3ForQuestionAnswering": "span",
    }  # fmt: skip
    defaults = {**Windowed.defaults, "head_dim": 128}
    unsaid = frozenset({"mlp_bias"})
    qk_norms = True

    def attention(self, config: HFConfig, kind: str) -> SoftmaxAttentionSpec:
        return super().attention(config, kind).replace(qk_norm="head", norm=self.norm(config))

    def samples(self) -> Mapping[str, Sample]:
        slides = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}
        return {
            **self.variants({**TINY, "head_dim": 6}, {
                "grouped, wide heads": {"head_dim": 10},
                "last layers slide, tied": {**slides, "tie_word_embeddings": True, "num_key_value_heads": 1},
                "no grouping, biases": {"num_key_value_heads": 4, "attention_bias": True},
            }),
            **self.labelled({**TINY, "head_dim": 8}),
        }  # fmt: skip
