"""GPT-NeoX and Pythia: attention and feed-forward in parallel, a part of each head turned, q, k and v stored by head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attnlib.attention.masks import Causal
from attnlib.attention.rotary import Rotary
from attnlib.attention.softmax import SoftmaxAttentionSpec
from attnlib.models.block import BlockSpec, Placement
from attnlib.models.decoder import DecoderSpec
from attnlib.models.heads import LMHeadSpec
from attnlib.models.spec import ModelSpec
from attnlib.models.stack import StackSpec
from attnlib.nn.embeddings import EmbeddingSpec
from attnlib.nn.feed_forward import DenseSpec
from attnlib.nn.init import Normal
from attnlib.nn.norms import LayerNormSpec
from attnlib.pretrained.activations import activation_from, activation_name
from attnlib.pretrained.decoder_family import DecoderFamily
from attnlib.pretrained.decoders import attentions_of, head_from, prefixes
from attnlib.pretrained.family import HFConfig, Sample
from attnlib.pretrained.rope import rope_config, rotary_from
from attnlib.pretrained.rules import Alias, Ignore, Split, renames
from attnlib.pretrained.table import Table


class GPTNeoX(DecoderFamily):
    """Black et al. 2022 (arXiv:2204.06745), Biderman et al. 2023 (arXiv:2304.01373)."""

    name = "gpt_neox"
    model_types = ("gpt_neox",)
    vocabulary, tags = "embed_out", "classifier"
    architectures = {
        "GPTNeoXForCausalLM": "lm", "GPTNeoXModel": "none", "GPTNeoXForSequenceClassification": "classify",
        "GPTNeoXForTokenClassification": "tag", "GPTNeoXForQuestionAnswering": "span",
    }  # fmt: skip

    def spec_from(self, config: HFConfig) -> DecoderSpec:
        config = config.over({"rotary_pct": 0.25})
        norm = LayerNormSpec(eps=config.get("layer_norm_eps", float, 1e-5))
        dropout = config.get("hidden_dropout", float, 0.0)
        attention = SoftmaxAttentionSpec(
            num_heads=config.get("num_attention_heads", int),
            mask=Causal(),
            rotary=rotary_from(config, theta="rotary_emb_base", fraction="rotary_pct"),
            bias=config.get("attention_bias", bool, True),
            dropout=config.get("attention_dropout", float, 0.0),
        )
        mlp = DenseSpec(d_ff=config.get("intermediate_size", int), activation=activation_from(config, "hidden_act", "gelu"))
        placement: Placement = "parallel" if config.get("use_parallel_residual", bool, True) else "pre"
        return DecoderSpec(
            d_model=config.get("hidden_size", int),
            vocab_size=config.get("vocab_size", int),
            embedding=EmbeddingSpec(dropout=dropout),
            stack=StackSpec(
                num_layers=config.get("num_hidden_layers", int),
                block=BlockSpec(placement=placement, norm=norm, attention=attention, mlp=mlp, dropout=dropout),
                final_norm=norm,
            ),
            head=head_from(
                config, self.architectures[self.architecture(config)],
                LMHeadSpec(tied=config.get("tie_word_embeddings", bool, False)),
            ),
            init=Normal(scale=config.get("initializer_range", float, 0.02)),
        )  # fmt: skip

    def keys(self, spec: ModelSpec, attentions: tuple[SoftmaxAttentionSpec, ...]) -> dict[str, Any]:
        block, mlp, norm = self.parts(spec, DenseSpec, LayerNormSpec)
        attention = attentions[0]
        return {
            "hidden_size": spec.d_model,
            "intermediate_size": mlp.d_ff,
            "num_hidden_layers": len(attentions),
            "num_attention_heads": attention.num_heads,
            "hidden_act": activation_name(mlp.activation, "gelu"),
            "layer_norm_eps": norm.eps,
            "use_parallel_residual": block.placement == "parallel",
            "attention_bias": bool(attention.bias),
            "attention_dropout": attention.dropout,
            "hidden_dropout": block.dropout,
            **rope_config(attention.rotary or Rotary(), "model.stack.block.attention.rotary", partial=True),
        }

    def table(self, spec: ModelSpec) -> Table:
        top = "" if spec.head.kind == "none" else "gpt_neox."
        theirs, ours = f"{top}layers.{{i}}.", "stack.blocks.{i}."
        heads = attentions_of(spec)[0].num_heads
        qkv = [tuple(f"{ours}attention.body.{part}.{leaf}" for part in "qkv") for leaf in ("weight", "bias")]
        names = ("embed_in.{*}", "layers.{*}", "final_layer_norm.{*}")
        masks = ("bias", "masked_bias", "rotary_emb.inv_freq")
        return Table(
            [
                *renames(top, "", {"embed_in": "embedding.token"}, parts=("weight",)),
                *renames(theirs, ours, {"input_layernorm": "attention.before", "post_attention_layernorm": "mlp.before"}),
                Split(f"{theirs}attention.query_key_value.weight", qkv[0], groups=heads),
                Split(f"{theirs}attention.query_key_value.bias", qkv[1], groups=heads),
                *renames(f"{theirs}attention.", f"{ours}attention.body.", {"dense": "out"}),
                *renames(f"{theirs}mlp.", f"{ours}mlp.body.", {"dense_h_to_4h": "up", "dense_4h_to_h": "down"}),
                *renames(top, "stack.", {"final_layer_norm": "final_norm"}),
                *self.head_rules(spec),
                *(Ignore(f"{theirs}attention.{name}", "a mask or a frequency, which is ours to make") for name in masks),
            ],
            [*prefixes(top, ("", "gpt_neox."), names), Alias("lm_head.{*}", "embed_out.{*}")],
        )

    def samples(self) -> Mapping[str, Sample]:
        tiny = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
                "intermediate_size": 44, "max_position_embeddings": 40}  # fmt: skip
        variants: dict[str, dict[str, Any]] = {
            "parallel": {},
            "one after the other, tied": {"use_parallel_residual": False, "tie_word_embeddings": True},
            "no attention bias": {"attention_bias": False, "hidden_act": "gelu_new", "layer_norm_eps": 1e-3},
            "half of each head, linear": {"rope_parameters": {"rope_theta": 500.0, "rope_type": "linear", "factor": 2.0,
                                                              "partial_rotary_factor": 0.5}},
        }  # fmt: skip
        return {
            **self.variants(tiny, variants),
            **self.labelled(tiny),
        }
