"""Llama 2 and 3.x: RMS norms before each sublayer, rotary positions, grouped queries, a gated SiLU feed-forward.

Its methods read one part of a config each, so that a family of the group says only what it has otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from attnlib.attention.masks import Mask
from attnlib.attention.rotary import Rotary
from attnlib.attention.softmax import SoftmaxAttentionSpec
from attnlib.models.block import BlockSpec
from attnlib.models.decoder import DecoderSpec
from attnlib.models.heads import LMHeadSpec
from attnlib.models.spec import ModelSpec
from attnlib.nn.embeddings import EmbeddingSpec
from attnlib.nn.feed_forward import FeedForward, GatedSpec
from attnlib.nn.init import Normal
from attnlib.nn.norms import RMSNormSpec
from attnlib.pretrained.activations import activation_from, activation_name
from attnlib.pretrained.decoder_family import DecoderFamily
from attnlib.pretrained.decoders import FULL, SLIDING, causal, head_from, layered, prefixes, sliding
from attnlib.pretrained.family import HFConfig, Sample
from attnlib.pretrained.rope import rope_config, rotary_from
from attnlib.pretrained.rules import Ignore, Rule, renames
from attnlib.pretrained.table import Table

ATTENTION = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "o_proj": "out"}
MLP = {"gate_proj": "gate", "up_proj": "up", "down_proj": "down"}
WHERE = "model.stack.block"


class Llama(DecoderFamily):
    """Touvron et al. 2023 (arXiv:2307.09288), Dubey et al. 2024 (arXiv:2407.21783)."""

    name = "llama"
    model_types = ("llama",)
    architectures = {
        "LlamaForCausalLM": "lm", "LlamaModel": "none", "LlamaForSequenceClassification": "classify",
        "LlamaForTokenClassification": "tag", "LlamaForQuestionAnswering": "span",
    }  # fmt: skip
    defaults: ClassVar[Mapping[str, Any]] = {}  # what their config class says where a file is silent
    unsaid: ClassVar[frozenset[str]] = frozenset()  # keys below that their config class does not have
    feed: ClassVar[type[FeedForward]] = GatedSpec
    activation: ClassVar[tuple[str, str]] = ("hidden_act", "silu")  # the key and its default
    norms: ClassVar[Mapping[str, str]] = {
        "input_layernorm": "attention.before", "post_attention_layernorm": "mlp.before",
    }  # fmt: skip
    qk_norms: ClassVar[bool] = False
    partial: ClassVar[bool] = False  # whether a part of a head may be turned
    tops: ClassVar[Mapping[str, str]] = {"none": "", "span": "transformer."}  # of names, by head; model. of all others

    # -- from a config ----------------------------------------------------------------------------------------------

    def spec_from(self, config: HFConfig) -> DecoderSpec:
        config = config.over(self.defaults).without(self.unsaid)
        kinds = self.kinds(config)
        return DecoderSpec(
            d_model=config.get("hidden_size", int),
            vocab_size=config.get("vocab_size", int),
            embedding=self.embedding(config),
            stack=layered(kinds, {kind: self.block(config, kind) for kind in kinds}, self.norm(config)),
            head=head_from(config, self.architectures[self.architecture(config)], self.lm(config)),
            init=Normal(scale=config.get("initializer_range", float, 0.02)),
        )

    def kinds(self, config: HFConfig) -> tuple[str, ...]:
        """The kind of every layer."""
        return (FULL,) * config.get("num_hidden_layers", int)

    def embedding(self, config: HFConfig) -> EmbeddingSpec:
        return EmbeddingSpec()

    def lm(self, config: HFConfig) -> LMHeadSpec:
        return LMHeadSpec(tied=config.get("tie_word_embeddings", bool, False))

    def norm(self, config: HFConfig) -> RMSNormSpec:
        return RMSNormSpec(eps=config.get("rms_norm_eps", float, 1e-6))

    def block(self, config: HFConfig, kind: str) -> BlockSpec:
        return BlockSpec(norm=self.norm(config), attention=self.attention(config, kind), mlp=self.mlp(config))

    def attention(self, config: HFConfig, kind: str) -> SoftmaxAttentionSpec:
        width, heads = config.get("hidden_size", int), config.get("num_attention_heads", int)
        groups, d_head = config.get("num_key_value_heads", int, heads), config.get("head_dim", int, width // heads)
        return SoftmaxAttentionSpec(
            num_heads=heads,
            num_kv_heads=None if groups == heads else groups,
            d_head=None if d_head * heads == width else d_head,
            mask=self.mask(config, kind),
            rotary=self.rotary(config, kind),
            bias=config.get("attention_bias", bool, False),
            dropout=config.get("attention_dropout", float, 0.0),
        )

    def mask(self, config: HFConfig, kind: str) -> Mask:
        return sliding(config, self.window(config)) if kind.startswith(SLIDING) else causal()

    def window(self, config: HFConfig) -> int | None:
        """Tokens that a sliding layer sees, the query counted; None where no layer slides."""
        return config.get("sliding_window", int, None)

    def rotary(self, config: HFConfig, kind: str) -> Rotary | None:
        return rotary_from(config)

    def mlp(self, config: HFConfig) -> FeedForward:
        act = activation_from(config, *self.activation)
        return GatedSpec(
            d_ff=config.get("intermediate_size", int), activation=act, bias=config.get("mlp_bias", bool, False)
        )

    # -- to a config ------------------------------------------------------------------------------------------------

    def keys(self, spec: ModelSpec, attentions: tuple[SoftmaxAttentionSpec, ...]) -> dict[str, Any]:
        block, _, norm = self.parts(spec, self.feed, RMSNormSpec)
        attention = attentions[0]
        said = {
            "hidden_size": spec.d_model,
            "num_hidden_layers": len(attentions),
            "num_attention_heads": attention.num_heads,
            "num_key_value_heads": attention.num_kv_heads or attention.num_heads,
            "head_dim": attention.d_head or spec.d_model // attention.num_heads,
            "rms_norm_eps": norm.eps,
            "attention_bias": bool(attention.bias),
            "attention_dropout": attention.dropout,
            **self.mlp_keys(block.mlp),
            **self.rope(attentions),
        }
        return {key: value for key, value in said.items() if key not in self.unsaid}

    def mlp_keys(self, mlp: Any) -> dict[str, Any]:
        act = activation_name(mlp.activation, self.activation[1])
        return {"intermediate_size": mlp.d_ff, self.activation[0]: act, "mlp_bias": mlp.bias}

    def rope(self, attentions: Sequence[SoftmaxAttentionSpec]) -> dict[str, Any]:
        """The keys of the rotary: that of the first layer which has one."""
        rotary = next((attention.rotary for attention in attentions if attention.rotary is not None), Rotary())
        return rope_config(rotary, f"{WHERE}.attention.rotary", partial=self.partial)

    # -- names ------------------------------------------------------------------------------------------------------

    def table(self, spec: ModelSpec) -> Table:
        top = self.tops.get(spec.head.kind, "model.")
        theirs, ours = f"{top}layers.{{i}}.", "stack.blocks.{i}."
        tensors = ("embed_tokens.{*}", "layers.{*}", "norm.{*}")
        return Table(
            [
                *renames(top, "", {"embed_tokens": "embedding.token", "norm": "stack.final_norm"}, parts=("weight",)),
                *renames(theirs, ours, self.norms, parts=("weight",)),
                *self.attention_rules(f"{theirs}self_attn.", f"{ours}attention.body."),
                *self.mlp_rules(theirs, f"{ours}mlp.body.", spec),
                *self.head_rules(spec),
                Ignore(f"{theirs}self_attn.rotary_emb.inv_freq", "computed from rope_parameters"),
            ],
            prefixes(top, ("", "model.", "transformer."), tensors),
        )

    def attention_rules(self, theirs: str, ours: str) -> list[Rule]:
        names = {f"{part}_norm": f"{part}_norm" for part in "qk"} if self.qk_norms else {}
        return [*renames(theirs, ours, ATTENTION), *renames(theirs, ours, names, parts=("weight",))]

    def mlp_rules(self, theirs: str, ours: str, spec: ModelSpec) -> list[Rule]:
        return [*renames(f"{theirs}mlp.", ours, MLP)]

    # -- proof ------------------------------------------------------------------------------------------------------

    def samples(self) -> Mapping[str, Sample]:
        scaled = {"rope_theta": 500.0, "original_max_position_embeddings": 8, "factor": 4.0}
        return {
            **self.variants(TINY, {
                "grouped": {},
                "multi-query, tied": {"num_key_value_heads": 1, "tie_word_embeddings": True},
                "multi-head, biases": {"num_key_value_heads": 4, "attention_bias": True, "mlp_bias": True},
                "wide heads": {"head_dim": 10},
                "linear": {"rope_parameters": {"rope_theta": 500.0, "rope_type": "linear", "factor": 2.5}},
                "dynamic": {"rope_parameters": {"rope_theta": 500.0, "rope_type": "dynamic", "factor": 3.0}},
                "llama3": {"rope_parameters": {**scaled, "rope_type": "llama3", "low_freq_factor": 1.0,
                                               "high_freq_factor": 4.0}},
                "yarn": {"rope_parameters": {**scaled, "rope_type": "yarn", "beta_fast": 6.0, "truncate": False}},
            }),
            **self.labelled(TINY),
        }  # fmt: skip


TINY = {
    "vocab_size": 61, "hidden_size": 24, "intermediate_size": 44, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5,
}  # fmt: skip
