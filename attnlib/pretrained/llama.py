"""Llama 2 and 3.x: RMS norms before each sublayer, rotary positions, grouped queries, a gated SiLU feed-forward."""

from __future__ import annotations

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
from attnlib.pretrained.family import Family, HFConfig
from attnlib.pretrained.rope import rope_config, rotary_from
from attnlib.pretrained.rules import Ignore, Rename, Tied
from attnlib.pretrained.table import Table


class Llama(Family):
    """Touvron et al. 2023 (arXiv:2307.09288), Dubey et al. 2024 (arXiv:2407.21783)."""

    name = "llama"
    model_types = ("llama",)
    architectures = ("LlamaForCausalLM", "LlamaModel")

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
            head=NoHeadSpec() if config.get("architectures", list, []) == ["LlamaModel"] else head,
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
            "architectures": ["LlamaModel" if isinstance(spec.head, NoHeadSpec) else "LlamaForCausalLM"],
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
        headless = isinstance(getattr(spec, "head", None), NoHeadSpec)
        top = "" if headless else "model."
        theirs, ours = f"{top}layers.{{i}}.", "stack.blocks.{i}."
        parts = ("weight", "bias")
        head = [] if headless else [Rename("lm_head.weight", "head.vocabulary.weight")]
        tied = getattr(getattr(spec, "head", None), "tied", False)
        return Table([
            Rename(f"{top}embed_tokens.weight", "embedding.token.weight"),
            Rename(f"{theirs}input_layernorm.weight", f"{ours}attention.before.weight"),
            *(Rename(f"{theirs}self_attn.{name}_proj.{part}", f"{ours}attention.body.{our}.{part}")
              for name, our in (("q", "q"), ("k", "k"), ("v", "v"), ("o", "out")) for part in parts),
            Rename(f"{theirs}post_attention_layernorm.weight", f"{ours}mlp.before.weight"),
            *(Rename(f"{theirs}mlp.{name}_proj.{part}", f"{ours}mlp.body.{name}.{part}")
              for name in ("gate", "up", "down") for part in parts),
            Rename(f"{top}norm.weight", "stack.final_norm.weight"),
            *([Tied("lm_head.weight", "embedding.token.weight")] if tied else head),
            Ignore(f"{theirs}self_attn.rotary_emb.inv_freq", "computed from rope_parameters"),
        ])  # fmt: skip

    def untied(self, spec: ModelSpec, theirs: str) -> ModelSpec:
        if theirs != "lm_head.weight" or not isinstance(spec, DecoderSpec):
            return super().untied(spec, theirs)
        return spec.replace(head=LMHeadSpec(tied=False))
