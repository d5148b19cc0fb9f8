"""Qwen2 and 2.5: Llama with biases on q, k and v; on request the later layers see a window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attnlib.attention.softmax import SoftmaxAttentionSpec
from attnlib.models.spec import ModelSpec
from attnlib.pretrained.decoders import FULL, SLIDING, kinds_from, window_config
from attnlib.pretrained.families.llama import TINY, Llama
from attnlib.pretrained.family import HFConfig, Sample


class Windowed(Llama):
    """Layers from `max_window_layers` on slide, if `use_sliding_window` says so; or as `layer_types` says."""

    name = ""  # no family of its own
    defaults = {"num_key_value_heads": 32, "sliding_window": 4096, "max_window_layers": 28}

    def window(self, config: HFConfig) -> int | None:
        return super().window(config) if config.get("use_sliding_window", bool, False) else None

    def kinds(self, config: HFConfig) -> tuple[str, ...]:
        first = config.get("max_window_layers", int) if self.window(config) is not None else None
        layers = range(config.get("num_hidden_layers", int))
        return kinds_from(config, [FULL if first is None or i < first else SLIDING for i in layers])

    def keys(self, spec: ModelSpec, attentions: tuple[SoftmaxAttentionSpec, ...]) -> dict[str, Any]:
        windows = window_config(attentions)
        kinds = windows["layer_types"]
        first = kinds.index(SLIDING) if SLIDING in kinds else len(kinds)
        more = {"use_sliding_window": SLIDING in kinds, "max_window_layers": first}
        return {**super().keys(spec, attentions), **windows, **more}


class Qwen2(Windowed):
    """Yang et al. 2024 (arXiv:2407.10671)."""

    name = "qwen2"
    model_types = ("qwen2",)
    architectures = {
        "Qwen2ForCausalLM": "lm", "Qwen2Model": "none", "Qwen2ForSequenceClassification": "classify",
        "Qwen2ForTokenClassification": "tag", "Qwen2ForQuestionAnswering": "span",
    }  # fmt: skip
    unsaid = frozenset({"attention_bias", "mlp_bias"})

    def attention(self, config: HFConfig, kind: str) -> SoftmaxAttentionSpec:
        return super().attention(config, kind).replace(bias=("q", "k", "v"))

    def samples(self) -> Mapping[str, Sample]:
        slides = {"use_sliding_window": True, "sliding_window": 5}
        yarn = {"rope_theta": 500.0, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8}
        mixed = [SLIDING, FULL, SLIDING]
        return {
            **self.variants(TINY, {
                "grouped": {},
                "last layers slide, tied": {**slides, "max_window_layers": 1, "tie_word_embeddings": True},
                "layers slide by name": {**slides, "layer_types": mixed, "num_key_value_heads": 1},
                "yarn, no grouping": {"num_key_value_heads": 4, "rope_parameters": yarn},
            }),
            **self.labelled(TINY),
        }  # fmt: skip
