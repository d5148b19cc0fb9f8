"""OPT: learned positions after two unused rows, norms before or after, sometimes a narrower vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attnlib.attention.masks import Causal
from attnlib.attention.softmax import SoftmaxAttentionSpec
from attnlib.models.block import BlockSpec
from attnlib.models.decoder import DecoderSpec
from attnlib.models.heads import LMHeadSpec
from attnlib.models.spec import ModelSpec
from attnlib.models.stack import StackSpec
from attnlib.nn.embeddings import EmbeddingSpec, LearnedSpec
from attnlib.nn.feed_forward import DenseSpec
from attnlib.nn.init import Normal
from attnlib.nn.norms import LayerNormSpec
from attnlib.pretrained.activations import activation_from, activation_name
from attnlib.pretrained.decoder_family import DecoderFamily
from attnlib.pretrained.decoders import decoder_of, head_from, prefixes
from attnlib.pretrained.family import HFConfig, Sample
from attnlib.pretrained.rules import renames
from attnlib.pretrained.table import Table

OFFSET = 2
ATTENTION = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "out_proj": "out"}
TOPS = ("embed_tokens.{*}", "embed_positions.{*}", "project_in.{*}", "project_out.{*}", "layers.{*}", "final_layer_norm.{*}")


class OPT(DecoderFamily):
    """Zhang et al. 2022 (arXiv:2205.01068)."""

    name = "opt"
    model_types = ("opt",)
    deviation = "init_std"
    uncovered = "layerdrop"
    architectures = {
        "OPTForCausalLM": "lm", "OPTModel": "none", "OPTForSequenceClassification": "classify",
        "OPTForQuestionAnswering": "span",
    }  # fmt: skip

    def spec_from(self, config: HFConfig) -> DecoderSpec:
        config.only("layerdrop", (0, 0.0))
        width, dropout = config.get("hidden_size", int, 768), config.get("dropout", float, 0.1)
        narrow = config.get("word_embed_proj_dim", int, width)
        bias, learned = config.get("enable_bias", bool, True), config.get("layer_norm_elementwise_affine", bool, True)
        before, norm = config.get("do_layer_norm_before", bool, True), LayerNormSpec(weight=learned, bias=learned)
        attention = SoftmaxAttentionSpec(
            num_heads=config.get("num_attention_heads", int, 12),
            mask=Causal(),
            bias=bias,
            dropout=config.get("attention_dropout", float, 0.0),
        )
        act = activation_from(config, "activation_function", "relu")
        mlp = DenseSpec(d_ff=config.get("ffn_dim", int, 3072), bias=bias, activation=act)
        block = BlockSpec(placement="pre" if before else "post", norm=norm, attention=attention, mlp=mlp, dropout=dropout)
        return DecoderSpec(
            d_model=width,
            vocab_size=config.get("vocab_size", int, 50272),
            embedding=EmbeddingSpec(
                d_embedding=None if narrow == width else narrow,
                position=LearnedSpec(max_length=config.get("max_position_embeddings", int, 2048), offset=OFFSET),
                project="sum" if narrow == width else "token",
                project_bias=narrow == width,
            ),
            stack=StackSpec(
                num_layers=config.get("num_hidden_layers", int, 12),
                block=block,
                final_norm=norm if before and not config.get("_remove_final_layer_norm", bool, False) else None,
                d_out=None if narrow == width else narrow,
            ),
            head=head_from(
                config, self.architectures[self.architecture(config)],
                LMHeadSpec(tied=config.get("tie_word_embeddings", bool, True)),
            ),
            init=Normal(scale=config.get("init_std", float, 0.02)),
        )  # fmt: skip

    def keys(self, spec: ModelSpec, attentions: tuple[SoftmaxAttentionSpec, ...]) -> dict[str, Any]:
        block, mlp, norm = self.parts(spec, DenseSpec, LayerNormSpec)
        attention = attentions[0]
        position = spec.embedding.position
        return {
            "hidden_size": spec.d_model,
            "word_embed_proj_dim": spec.embedding.d_embedding or spec.d_model,
            "num_hidden_layers": len(attentions),
            "num_attention_heads": attention.num_heads,
            "ffn_dim": mlp.d_ff,
            "max_position_embeddings": position.max_length if isinstance(position, LearnedSpec) else 0,
            "activation_function": activation_name(mlp.activation, "relu"),
            "do_layer_norm_before": block.placement == "pre",
            "_remove_final_layer_norm": block.placement == "pre" and decoder_of(spec).stack.final_norm is None,
            "enable_bias": bool(attention.bias),
            "layer_norm_elementwise_affine": norm.weight,
            "attention_dropout": attention.dropout,
            "dropout": block.dropout,
        }

    def table(self, spec: ModelSpec) -> Table:
        top = "decoder." if spec.head.kind == "none" else "model.decoder."
        theirs, ours = f"{top}layers.{{i}}.", "stack.blocks.{i}."
        place = "outer" if decoder_of(spec).stack.layers[0].placement == "post" else "before"
        tables = {"embed_tokens": "embedding.token", "embed_positions": "embedding.position",
                  "project_in": "embedding.token_project", "project_out": "stack.project"}  # fmt: skip
        norms = {"self_attn_layer_norm": f"attention.{place}", "final_layer_norm": f"mlp.{place}"}
        return Table(
            [
                *renames(top, "", tables, parts=("weight",)),
                *renames(theirs, ours, norms),
                *renames(f"{theirs}self_attn.", f"{ours}attention.body.", ATTENTION),
                *renames(theirs, f"{ours}mlp.body.", {"fc1": "up", "fc2": "down"}),
                *renames(top, "stack.", {"final_layer_norm": "final_norm"}),
                *self.head_rules(spec),
            ],
            prefixes(top, ("", "decoder.", "model.decoder."), TOPS),
        )

    def samples(self) -> Mapping[str, Sample]:
        tiny = {"vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "ffn_dim": 44,
                "max_position_embeddings": 40}  # fmt: skip
        narrow = {"word_embed_proj_dim": 10, "do_layer_norm_before": False}
        variants: dict[str, dict[str, Any]] = {
            "norms before": {},
            "norms after, narrow vocabulary": narrow,
            "narrow, untied": {"word_embed_proj_dim": 10, "tie_word_embeddings": False, "activation_function": "gelu"},
            "no last norm": {"_remove_final_layer_norm": True},
            "no biases, plain norms": {"enable_bias": False, "layer_norm_elementwise_affine": False},
        }
        return {
            **self.variants(tiny, variants),
            **self.labelled({**tiny, **narrow}),
        }
