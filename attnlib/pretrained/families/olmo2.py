"""OLMo 2: norms after each branch and none before, a norm over all queries and all keys, rotary turned in fp32."""

from __future__ import annotations

from collections.abc import Mapping

from attnlib.attention.rotary import Rotary
from attnlib.attention.softmax import SoftmaxAttentionSpec
from attnlib.models.block import BlockSpec
from attnlib.nn.norms import RMSNormSpec
from attnlib.pretrained.families.llama import TINY, Llama
from attnlib.pretrained.family import HFConfig, Sample
from attnlib.pretrained.rope import rotary_from


class Olmo2(Llama):
    """OLMo team 2024 (arXiv:2501.00656)."""

    name = "olmo2"
    model_types = ("olmo2",)
    architectures = {"Olmo2ForCausalLM": "lm", "Olmo2Model": "none", "Olmo2ForSequenceClassification": "classify"}
    defaults = {"rms_norm_eps": 1e-5}
    unsaid = frozenset({"mlp_bias"})
    norms = {"post_attention_layernorm": "attention.after", "post_feedforward_layernorm": "mlp.after"}
    qk_norms = True

    def norm(self, config: HFConfig) -> RMSNormSpec:
        return super().norm(config).replace(cast="scale_then_cast")

    def block(self, config: HFConfig, kind: str) -> BlockSpec:
        return super().block(config, kind).replace(placement="branch")

    def attention(self, config: HFConfig, kind: str) -> SoftmaxAttentionSpec:
        return super().attention(config, kind).replace(qk_norm="full", norm=self.norm(config))

    def rotary(self, config: HFConfig, kind: str) -> Rotary:
        return rotary_from(config).replace(exact=True)

    def samples(self) -> Mapping[str, Sample]:
        linear = {"rope_theta": 500.0, "rope_type": "linear", "factor": 2.5}
        return {
            **self.variants(TINY, {
                "no grouping": {"num_key_value_heads": 4},
                "grouped, biases, tied": {"attention_bias": True, "tie_word_embeddings": True},
                "multi-query, wide heads": {"num_key_value_heads": 1, "head_dim": 10},
                "linear": {"rope_parameters": linear},
            }),
            **self.labelled(TINY),
        }  # fmt: skip
