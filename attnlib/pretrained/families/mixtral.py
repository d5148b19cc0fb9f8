"""Mixtral: Mistral with a mixture of experts for feed-forward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attnlib.errors import CheckpointError
from attnlib.models.spec import ModelSpec
from attnlib.nn.feed_forward import FeedForward
from attnlib.nn.mixture import MixtureSpec
from attnlib.pretrained.activations import activation_from, activation_name
from attnlib.pretrained.decoders import decoder_of
from attnlib.pretrained.families.llama import TINY, WHERE
from attnlib.pretrained.families.mistral import Mistral
from attnlib.pretrained.family import HFConfig, Sample
from attnlib.pretrained.rules import Rename, Rule, Stack

EXPERTS = {"w1": "gate", "w3": "up", "w2": "down"}


class Mixtral(Mistral):
    """Jiang et al. 2024 (arXiv:2401.04088)."""

    name = "mixtral"
    model_types = ("mixtral",)
    architectures = {
        "MixtralForCausalLM": "lm", "MixtralModel": "none", "MixtralForSequenceClassification": "classify",
        "MixtralForTokenClassification": "tag", "MixtralForQuestionAnswering": "span",
    }  # fmt: skip
    defaults = {
        "num_key_value_heads": 8, "rope_theta": 1000000.0, "rms_norm_eps": 1e-5, "num_local_experts": 8,
        "num_experts_per_tok": 2, "router_aux_loss_coef": 0.001,
    }  # fmt: skip
    unsaid = frozenset({"attention_bias"})
    feed = MixtureSpec

    def mlp(self, config: HFConfig) -> FeedForward:
        asked = config.get("output_router_logits", bool, False)
        return MixtureSpec(
            d_ff=config.get("intermediate_size", int),
            num_experts=config.get("num_local_experts", int),
            top_k=config.get("num_experts_per_tok", int),
            activation=activation_from(config, *self.activation),
            balance=config.get("router_aux_loss_coef", float) if asked else 0.0,
            jitter=config.get("router_jitter_noise", float, 0.0),
        )

    def mlp_keys(self, mlp: Any) -> dict[str, Any]:
        return {
            "intermediate_size": mlp.d_ff,
            "num_local_experts": mlp.num_experts,
            "num_experts_per_tok": mlp.top_k,
            self.activation[0]: activation_name(mlp.activation, self.activation[1]),
            "router_jitter_noise": mlp.jitter,
            "output_router_logits": mlp.balance > 0,
            "router_aux_loss_coef": mlp.balance or self.defaults["router_aux_loss_coef"],
        }

    def mlp_rules(self, theirs: str, ours: str, spec: ModelSpec) -> list[Rule]:
        mlp, moe = decoder_of(spec).stack.layers[0].mlp, f"{theirs}block_sparse_moe."
        if not isinstance(mlp, MixtureSpec):
            raise CheckpointError(f"{WHERE}.mlp", "is no mixture of experts", f"wish a {self.name} model")
        experts = [
            Stack(f"{moe}experts.{{e}}.{name}.weight", f"{ours}{our}", mlp.num_experts) for name, our in EXPERTS.items()
        ]
        return [Rename(f"{moe}gate.weight", f"{ours}router.weight"), *experts]

    def samples(self) -> Mapping[str, Sample]:
        tiny = {**TINY, "num_hidden_layers": 2, "num_local_experts": 4, "intermediate_size": 40}
        return {
            **self.variants(tiny, {
                "two of four": {},
                "three of five, window, tied": {
                    "num_local_experts": 5, "num_experts_per_tok": 3, "sliding_window": 5, "tie_word_embeddings": True,
                    "router_jitter_noise": 0.1,
                },
                "one of two, wide heads": {
                    "num_local_experts": 2, "num_experts_per_tok": 1, "head_dim": 10, "num_key_value_heads": 1,
                },
            }),
            **self.labelled(tiny),
        }  # fmt: skip
