"""Llama 2 and 3.x: RMS norms before each sublayer, rotary positions, grouped queries, a gated SiLU feed-forward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attnlib.attention.masks import Causal
from attnlib.attention.rotary import Rotary
from attnlib.attention.softmax import SoftmaxAttentionSpec
from attnlib.errors import CheckpointError
from attnlib.models.block import BlockSpec
from attnlib.models.decoder import DecoderSpec
from attnlib.models.heads import HeadSpec, LMHeadSpec, NoHeadSpec
from attnlib.models.spec import ModelSpec
from attnlib.models.stack import StackSpec
from attnlib.nn.feed_forward import GatedSpec
from attnlib.nn.init import Normal
from attnlib.nn.norms import RMSNormSpec
from attnlib.pretrained.family import Family, HFConfig, Sample
from attnlib.pretrained.rope import rope_config, rotary_from
from attnlib.pretrained.rules import Ignore, Rename, Tied, renames
from attnlib.pretrained.table import Table

NORMS = {"input_layernorm": "attention.before", "post_attention_layernorm": "mlp.before"}
ATTENTION = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "o_proj": "out"}
MLP = {"gate_proj": "gate", "up_proj": "up", "down_proj": "down"}


def lm_head(spec: ModelSpec) -> Rename | Tied:
    """The vocabulary's rule: a tensor of its own, or the embedding's."""
    if isinstance(spec.head, LMHeadSpec) and spec.head.tied:
        return Tied("lm_head.weight", "embedding.token.weight")
    return Rename("lm_head.weight", "head.vocabulary.weight")


class Llama(Family):
    """Touvron et al. 2023 (arXiv:2307.09288), Dubey et al. 2024 (arXiv:2407.21783)."""

    name = "llama"
    model_types = ("llama",)
    architectures = {"LlamaForCausalLM": "lm", "LlamaModel": "none"}

    def spec_from(self, config: HFConfig) -> DecoderSpec:
        config.only("hidden_act", ("silu",))
        width, heads = config.get("hidden_size", int), config.get("num_attention_heads", int)
        groups, d_head = config.get("num_key_value_heads", int, heads), config.get("head_dim", int, width // heads)
        norm = RMSNormSpec(eps=config.get("rms_norm_eps", float, 1e-6))
        attention = SoftmaxAttentionSpec(
            num_heads=heads,
            num_kv_heads=None if groups == heads else groups,
            d_head=None if d_head * heads == width else d_head,
            mask=Causal(),
            rotary=rotary_from(config),
            bias=config.get("attention_bias", bool, False),
            dropout=config.get("attention_dropout", float, 0.0),
        )
        mlp = GatedSpec(d_ff=config.get("intermediate_size", int), bias=config.get("mlp_bias", bool, False))
        head: HeadSpec = LMHeadSpec(tied=config.get("tie_word_embeddings", bool, False))
        return DecoderSpec(
            d_model=width,
            vocab_size=config.get("vocab_size", int),
            stack=StackSpec(
                num_layers=config.get("num_hidden_layers", int),
                block=BlockSpec(norm=norm, attention=attention, mlp=mlp),
                final_norm=norm,
            ),
            head=NoHeadSpec() if self.architecture(config) == "LlamaModel" else head,
            init=Normal(scale=config.get("initializer_range", float, 0.02)),
        )

    def config_from(self, spec: ModelSpec) -> dict[str, Any]:
        if not isinstance(spec, DecoderSpec):
            raise CheckpointError("model", f"is of kind {spec.kind!r}", "wish a decoder")
        block = spec.stack.layers[0]
        attention, mlp, norm = block.attention, block.mlp, block.norm
        if not isinstance(attention, SoftmaxAttentionSpec):
            raise CheckpointError("model.stack.block.attention", f"is of kind {attention.kind!r}", "wish softmax")
        if not isinstance(mlp, GatedSpec) or not isinstance(norm, RMSNormSpec):
            raise CheckpointError("model.stack.block", "is without RMS norms and a gated mlp", "wish a llama model")
        tied = isinstance(spec.head, LMHeadSpec) and spec.head.tied
        tree = {
            "model_type": "llama",
            "architectures": [self.architecture_of(spec)],
            "vocab_size": spec.vocab_size,
            "hidden_size": spec.d_model,
            "intermediate_size": mlp.d_ff,
            "num_hidden_layers": spec.stack.num_layers,
            "num_attention_heads": attention.num_heads,
            "num_key_value_heads": attention.num_kv_heads or attention.num_heads,
            "head_dim": attention.d_head or spec.d_model // attention.num_heads,
            "hidden_act": mlp.activation,
            "rms_norm_eps": norm.eps,
            "attention_bias": bool(attention.bias),
            "attention_dropout": attention.dropout,
            "mlp_bias": mlp.bias,
            "tie_word_embeddings": tied,
            **rope_config(attention.rotary or Rotary(), "model.stack.block.attention.rotary"),
            **({"initializer_range": spec.init.scale} if isinstance(spec.init, Normal) else {}),
        }
        self.say(spec, tree)
        return tree

    def table(self, spec: ModelSpec) -> Table:
        headless = isinstance(spec.head, NoHeadSpec)
        top = "" if headless else "model."
        theirs, ours = f"{top}layers.{{i}}.", "stack.blocks.{i}."
        return Table([
            *renames(top, "", {"embed_tokens": "embedding.token", "norm": "stack.final_norm"}, parts=("weight",)),
            *renames(theirs, ours, NORMS, parts=("weight",)),
            *renames(f"{theirs}self_attn.", f"{ours}attention.body.", ATTENTION),
            *renames(f"{theirs}mlp.", f"{ours}mlp.body.", MLP),
            *([] if headless else [lm_head(spec)]),
            Ignore(f"{theirs}self_attn.rotary_emb.inv_freq", "computed from rope_parameters"),
        ])  # fmt: skip

    def samples(self) -> Mapping[str, Sample]:
        base = {
            "vocab_size": 61, "hidden_size": 24, "intermediate_size": 44, "num_hidden_layers": 3,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5,
        }  # fmt: skip
        scaled = {"rope_theta": 500.0, "original_max_position_embeddings": 8, "factor": 4.0}
        variants: dict[str, dict[str, Any]] = {
            "grouped": {},
            "multi-query, tied": {"num_key_value_heads": 1, "tie_word_embeddings": True},
            "multi-head, biases": {"num_key_value_heads": 4, "attention_bias": True, "mlp_bias": True},
            "wide heads": {"head_dim": 10},
            "linear": {"rope_parameters": {"rope_theta": 500.0, "rope_type": "linear", "factor": 2.5}},
            "dynamic": {"rope_parameters": {"rope_theta": 500.0, "rope_type": "dynamic", "factor": 3.0}},
            "llama3": {"rope_parameters": {**scaled, "rope_type": "llama3", "low_freq_factor": 1.0,
                                           "high_freq_factor": 4.0}},
            "yarn": {"rope_parameters": {**scaled, "rope_type": "yarn", "beta_fast": 6.0, "truncate": False}},
        }  # fmt: skip
        made = {name: Sample("LlamaForCausalLM", {**base, **variant}) for name, variant in variants.items()}
        return {**made, "headless": Sample("LlamaModel", base)}

    def untied(self, spec: ModelSpec, theirs: str) -> ModelSpec:
        if theirs != "lm_head.weight" or not isinstance(spec, DecoderSpec):
            return super().untied(spec, theirs)
        return spec.replace(head=LMHeadSpec(tied=False))
