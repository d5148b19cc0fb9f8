"""SmolLM3: Llama with every fourth layer turning nothing; such layers may see a window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attnlib.attention.rotary import Rotary
from attnlib.attention.softmax import SoftmaxAttentionSpec
from attnlib.errors import CheckpointError
from attnlib.models.spec import ModelSpec
from attnlib.pretrained.decoders import FULL, SLIDING, kinds_from, window_config
from attnlib.pretrained.families.llama import TINY, Llama
from attnlib.pretrained.family import HFConfig, Sample
from attnlib.pretrained.rope import rotary_from

UNTURNED = "_unturned"


class SmolLM3(Llama):
    """Bakouch et al. 2025, with the layers of Yang et al. 2025 (arXiv:2501.18795)."""

    name = "smollm3"
    model_types = ("smollm3",)
    architectures = {
        "SmolLM3ForCausalLM": "lm", "SmolLM3Model": "none", "SmolLM3ForSequenceClassification": "classify",
        "SmolLM3ForTokenClassification": "tag", "SmolLM3ForQuestionAnswering": "span",
    }  # fmt: skip
    defaults = {
        "num_key_value_heads": 4, "rope_theta": 2000000.0, "no_rope_layer_interval": 4, "tie_word_embeddings": True,
    }  # fmt: skip

    def kinds(self, config: HFConfig) -> tuple[str, ...]:
        layers, every = range(config.get("num_hidden_layers", int)), config.get("no_rope_layer_interval", int)
        turned = config.get("no_rope_layers", list, [int((i + 1) % every != 0) for i in layers])  # 1 = turned
        if len(turned) < len(layers) or any(one not in (0, 1) for one in turned):
            raise CheckpointError(f"{config.where}: no_rope_layers", f"is {str(turned)[:80]}", "wish 0 or 1 a layer")
        slides = config.get("use_sliding_window", bool, False) and self.window(config) is not None
        kinds = kinds_from(config, [SLIDING if slides and not turned[i] else FULL for i in layers])
        return tuple(kind if one else kind + UNTURNED for kind, one in zip(kinds, turned))

    def rotary(self, config: HFConfig, kind: str) -> Rotary | None:
        return None if kind.endswith(UNTURNED) else rotary_from(config)

    def keys(self, spec: ModelSpec, attentions: tuple[SoftmaxAttentionSpec, ...]) -> dict[str, Any]:
        windows = window_config(attentions)
        more = {
            "no_rope_layers": [int(attention.rotary is not None) for attention in attentions],
            "use_sliding_window": SLIDING in windows["layer_types"],
        }
        return {**super().keys(spec, attentions), **windows, **more}

    def samples(self) -> Mapping[str, Sample]:
        slides = {"use_sliding_window": True, "sliding_window": 5}
        linear = {"rope_theta": 500.0, "rope_type": "linear", "factor": 2.5}
        return {
            **self.variants({**TINY, "pad_token_id": 0}, {
                "every second unturned": {"no_rope_layer_interval": 2},
                "unturned layers slide, untied": {**slides, "no_rope_layers": [0, 1, 0], "tie_word_embeddings": False},
                "all turned, multi-query": {"no_rope_layers": [1, 1, 1], "num_key_value_heads": 1},
                "a turned layer slides, biases": {
                    **slides, "no_rope_layers": [1, 0, 1], "layer_types": [SLIDING, FULL, FULL], "num_key_value_heads": 4,
                    "attention_bias": True, "mlp_bias": True, "rope_parameters": linear,
                },
            }),
            **self.labelled({**TINY, "no_rope_layer_interval": 2}),
        }  # fmt: skip
