"""BLOOM: linear biases by distance in place of positions, a norm after the embedding, q, k and v stored by head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attnlib.attention.biases import ALiBiSpec
from attnlib.attention.masks import Causal
from attnlib.attention.softmax import SoftmaxAttentionSpec
from attnlib.models.block import BlockSpec
from attnlib.models.decoder import DecoderSpec
from attnlib.models.heads import LMHeadSpec
from attnlib.models.spec import ModelSpec
from attnlib.models.stack import StackSpec
from attnlib.nn.embeddings import EmbeddingSpec
from attnlib.nn.feed_forward import DenseSpec
from attnlib.nn.init import Normal
from attnlib.nn.norms import LayerNormSpec
from attnlib.pretrained.decoder_family import DecoderFamily
from attnlib.pretrained.decoders import attentions_of, head_from, prefixes
from attnlib.pretrained.family import HFConfig, Sample
from attnlib.pretrained.rules import Split, renames
from attnlib.pretrained.table import Table

TOPS = ("word_embeddings.{*}", "word_embeddings_layernorm.{*}", "h.{*}", "ln_f.{*}")


class Bloom(DecoderFamily):
    """Le Scao et al. 2022 (arXiv:2211.05100)."""

    name = "bloom"
    model_types = ("bloom",)
    tags = "classifier"
    positions = "counted"
    uncovered = "the residual after the norm"
    architectures = {
        "BloomForCausalLM": "lm", "BloomModel": "none", "BloomForSequenceClassification": "classify",
        "BloomForTokenClassification": "tag", "BloomForQuestionAnswering": "span",
    }  # fmt: skip

    def spec_from(self, config: HFConfig) -> DecoderSpec:
        config.only("apply_residual_connection_post_layernorm", (False,))
        width = config.get("n_embed", int, config.get("hidden_size", int, 64))
        norm = LayerNormSpec(eps=config.get("layer_norm_epsilon", float, 1e-5))
        attention = SoftmaxAttentionSpec(
            num_heads=_number(config, "n_head", "num_attention_heads", 8),
            mask=Causal(),
            term=ALiBiSpec(),
            bias=True,
            dropout=config.get("attention_dropout", float, 0.0),
        )
        mlp = DenseSpec(d_ff=4 * width, activation="gelu_tanh")
        return DecoderSpec(
            d_model=width,
            vocab_size=config.get("vocab_size", int, 250880),
            embedding=EmbeddingSpec(norm=norm),
            stack=StackSpec(
                num_layers=_number(config, "n_layer", "num_hidden_layers", 2),
                block=BlockSpec(norm=norm, attention=attention, mlp=mlp, dropout=config.get("hidden_dropout", float, 0.0)),
                final_norm=norm,
            ),
            head=head_from(
                config, self.architectures[self.architecture(config)],
                LMHeadSpec(tied=config.get("tie_word_embeddings", bool, True)),
            ),
            init=Normal(scale=config.get("initializer_range", float, 0.02)),
        )  # fmt: skip

    def keys(self, spec: ModelSpec, attentions: tuple[SoftmaxAttentionSpec, ...]) -> dict[str, Any]:
        block, _, norm = self.parts(spec, DenseSpec, LayerNormSpec)
        attention = attentions[0]
        return {
            "hidden_size": spec.d_model,
            "n_layer": len(attentions),
            "n_head": attention.num_heads,
            "layer_norm_epsilon": norm.eps,
            "attention_dropout": attention.dropout,
            "hidden_dropout": block.dropout,
        }

    def table(self, spec: ModelSpec) -> Table:
        top = "" if spec.head.kind == "none" else "transformer."
        theirs, ours = f"{top}h.{{i}}.", "stack.blocks.{i}."
        heads = attentions_of(spec)[0].num_heads
        qkv = [tuple(f"{ours}attention.body.{part}.{leaf}" for part in "qkv") for leaf in ("weight", "bias")]
        return Table(
            [
                *renames(top, "embedding.", {"word_embeddings": "token"}, parts=("weight",)),
                *renames(top, "", {"word_embeddings_layernorm": "embedding.norm", "ln_f": "stack.final_norm"}),
                *renames(theirs, ours, {"input_layernorm": "attention.before", "post_attention_layernorm": "mlp.before"}),
                Split(f"{theirs}self_attention.query_key_value.weight", qkv[0], groups=heads),
                Split(f"{theirs}self_attention.query_key_value.bias", qkv[1], groups=heads),
                *renames(f"{theirs}self_attention.", f"{ours}attention.body.", {"dense": "out"}),
                *renames(f"{theirs}mlp.", f"{ours}mlp.body.", {"dense_h_to_4h": "up", "dense_4h_to_h": "down"}),
                *self.head_rules(spec),
            ],
            prefixes(top, ("", "transformer."), TOPS),
        )

    def samples(self) -> Mapping[str, Sample]:
        tiny = {"vocab_size": 61, "hidden_size": 24, "n_layer": 3, "n_head": 4}
        made = {
            "a power of two of heads": Sample("BloomForCausalLM", tiny),
            "three heads, untied": Sample("BloomForCausalLM", {**tiny, "n_head": 3, "tie_word_embeddings": False}),
            **self.labelled({**tiny, "layer_norm_epsilon": 1e-3}),
        }
        return {name: sample._replace(attention="eager") for name, sample in made.items()}


def _number(config: HFConfig, key: str, other: str, default: int) -> int:
    return config.get(key, int, config.get(other, int, default))
