"""Phi-3 and 3.5: Mistral with q, k and v in one matrix, gate and up in another, and channel by channel scaled rotary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attnlib.attention.rotary import Rotary
from attnlib.attention.softmax import SoftmaxAttentionSpec
from attnlib.errors import CheckpointError
from attnlib.models.block import BlockSpec
from attnlib.models.spec import ModelSpec
from attnlib.pretrained.decoders import decoder_of
from attnlib.pretrained.families.llama import TINY
from attnlib.pretrained.families.mistral import Mistral
from attnlib.pretrained.family import HFConfig, Sample
from attnlib.pretrained.rope import FACTOR, ORIGINAL, rotary_from
from attnlib.pretrained.rules import Rename, Rule, Split


class Phi3(Mistral):
    """Abdin et al. 2024 (arXiv:2404.14219)."""

    name = "phi3"
    model_types = ("phi3",)
    architectures = {
        "Phi3ForCausalLM": "lm", "Phi3Model": "none", "Phi3ForSequenceClassification": "classify",
        "Phi3ForTokenClassification": "tag",
    }  # fmt: skip
    defaults = {"rms_norm_eps": 1e-5, "max_position_embeddings": 4096, ORIGINAL: 4096}
    unsaid = frozenset({"attention_bias", "mlp_bias"})
    partial = True

    def block(self, config: HFConfig, kind: str) -> BlockSpec:
        return super().block(config, kind).replace(dropout=config.get("resid_pdrop", float, 0.0))

    def rotary(self, config: HFConfig, kind: str) -> Rotary:
        older = {"su": "longrope", "yarn": "longrope"}
        rotary = rotary_from(config, fraction=FACTOR, original=ORIGINAL, spelled=older)
        width = config.get("hidden_size", int) // config.get("num_attention_heads", int)
        if int(config.get("head_dim", int, width) * rotary.fraction) % 2:
            raise CheckpointError(f"{config.where}: {FACTOR}", "turns an odd number of channels", "wish an even number")
        return rotary

    def keys(self, spec: ModelSpec, attentions: tuple[SoftmaxAttentionSpec, ...]) -> dict[str, Any]:
        return {**super().keys(spec, attentions), "resid_pdrop": decoder_of(spec).stack.layers[0].dropout}

    def rope(self, attentions: Sequence[SoftmaxAttentionSpec]) -> dict[str, Any]:
        said = super().rope(attentions)
        return {**said, ORIGINAL: said["rope_parameters"].get(ORIGINAL, said["max_position_embeddings"])}

    def attention_rules(self, theirs: str, ours: str) -> list[Rule]:
        parts = tuple(f"{ours}{part}.weight" for part in "qkv")
        return [Split(f"{theirs}qkv_proj.weight", parts), Rename(f"{theirs}o_proj.weight", f"{ours}out.weight")]

    def mlp_rules(self, theirs: str, ours: str, spec: ModelSpec) -> list[Rule]:
        both = Split(f"{theirs}mlp.gate_up_proj.weight", (f"{ours}gate.weight", f"{ours}up.weight"))
        return [both, Rename(f"{theirs}mlp.down_proj.weight", f"{ours}down.weight")]

    def samples(self) -> Mapping[str, Sample]:
        lists = {"short_factor": [1.0, 1.5, 2.0], "long_factor": [2.0, 4.0, 8.0]}
        long = {"rope_theta": 500.0, "rope_type": "longrope", **lists}
        return {
            **self.variants({**TINY, "pad_token_id": 0}, {
                "grouped, window": {"sliding_window": 5},
                "longrope, multi-query": {
                    "num_key_value_heads": 1, "rope_parameters": long, "max_position_embeddings": 40, ORIGINAL: 10,
                },
                "longrope of a part, tied": {
                    "rope_parameters": {**long, "short_factor": [1.0, 1.5], "long_factor": [3.0, 5.0], "factor": 4.0,
                                        "partial_rotary_factor": 0.75},
                    "max_position_embeddings": 40, ORIGINAL: 10, "tie_word_embeddings": True, "num_key_value_heads": 4,
                },
                "a part of wide heads": {"head_dim": 12, "partial_rotary_factor": 0.5},
            }),
            **self.labelled(TINY),
        }  # fmt: skip
