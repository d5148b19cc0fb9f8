"""GPT-J: attention and feed-forward in parallel after one norm, neighbouring channels turned in pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attnlib.attention.masks import Causal
from attnlib.attention.rotary import Rotary
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
from attnlib.pretrained.activations import activation_from, activation_name
from attnlib.pretrained.decoder_family import DecoderFamily
from attnlib.pretrained.decoders import head_from, prefixes
from attnlib.pretrained.family import HFConfig, Sample
from attnlib.pretrained.rules import Ignore, renames
from attnlib.pretrained.table import Table

ATTENTION = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "out_proj": "out"}


class GPTJ(DecoderFamily):
    """Wang & Komatsuzaki 2021."""

    name = "gptj"
    model_types = ("gptj",)
    architectures = {
        "GPTJForCausalLM": "lm", "GPTJModel": "none", "GPTJForSequenceClassification": "classify",
        "GPTJForQuestionAnswering": "span",
    }  # fmt: skip

    def spec_from(self, config: HFConfig) -> DecoderSpec:
        width, heads = config.get("n_embd", int, 4096), config.get("n_head", int, 16)
        norm = LayerNormSpec(eps=config.get("layer_norm_epsilon", float, 1e-5))
        attention = SoftmaxAttentionSpec(
            num_heads=heads,
            mask=Causal(),
            rotary=Rotary(fraction=config.get("rotary_dim", int, 64) * heads / width, interleaved=True),
            dropout=config.get("attn_pdrop", float, 0.0),
        )
        mlp = DenseSpec(
            d_ff=config.get("n_inner", int, 4 * width), activation=activation_from(config, "activation_function", "gelu_new")
        )
        block = BlockSpec(placement="parallel", share_norm=True, norm=norm, attention=attention, mlp=mlp,
                          dropout=config.get("resid_pdrop", float, 0.0))  # fmt: skip
        return DecoderSpec(
            d_model=width,
            vocab_size=config.get("vocab_size", int, 50400),
            embedding=EmbeddingSpec(dropout=config.get("embd_pdrop", float, 0.0)),
            stack=StackSpec(num_layers=config.get("n_layer", int, 28), block=block, final_norm=norm),
            head=head_from(
                config, self.architectures[self.architecture(config)],
                LMHeadSpec(tied=config.get("tie_word_embeddings", bool, False), bias=True),
            ),
            init=Normal(scale=config.get("initializer_range", float, 0.02)),
        )  # fmt: skip

    def keys(self, spec: ModelSpec, attentions: tuple[SoftmaxAttentionSpec, ...]) -> dict[str, Any]:
        block, mlp, norm = self.parts(spec, DenseSpec, LayerNormSpec)
        attention = attentions[0]
        rotary = attention.rotary or Rotary()
        return {
            "n_embd": spec.d_model,
            "n_layer": len(attentions),
            "n_head": attention.num_heads,
            "n_inner": mlp.d_ff,
            "rotary_dim": rotary.width(spec.d_model // attention.num_heads),
            "activation_function": activation_name(mlp.activation, "gelu_new"),
            "layer_norm_epsilon": norm.eps,
            "embd_pdrop": spec.embedding.dropout,
            "attn_pdrop": attention.dropout,
            "resid_pdrop": block.dropout,
        }

    def table(self, spec: ModelSpec) -> Table:
        top = "" if spec.head.kind == "none" else "transformer."
        theirs, ours = f"{top}h.{{i}}.", "stack.blocks.{i}."
        return Table(
            [
                *renames(top, "", {"wte": "embedding.token"}, parts=("weight",)),
                *renames(theirs, ours, {"ln_1": "norm"}),
                *renames(f"{theirs}attn.", f"{ours}attention.body.", ATTENTION, parts=("weight",)),
                *renames(f"{theirs}mlp.", f"{ours}mlp.body.", {"fc_in": "up", "fc_out": "down"}),
                *renames(top, "stack.", {"ln_f": "final_norm"}),
                *self.head_rules(spec),
                *(Ignore(f"{theirs}attn.{name}", "a mask or a position, which is ours to make")
                  for name in ("bias", "masked_bias", "embed_positions")),
            ],
            prefixes(top, ("", "transformer."), ("wte.{*}", "h.{*}", "ln_f.{*}")),
        )  # fmt: skip

    def samples(self) -> Mapping[str, Sample]:
        tiny = {"vocab_size": 61, "n_embd": 40, "n_layer": 3, "n_head": 4, "n_positions": 40, "rotary_dim": 4}
        variants: dict[str, dict[str, Any]] = {
            "a part of each head": {},
            "whole heads, tied": {"rotary_dim": 10, "tie_word_embeddings": True},
            "relu, wide": {"activation_function": "relu", "n_inner": 50, "layer_norm_epsilon": 1e-3},
        }
        return {
            **self.variants(tiny, variants),
            **self.labelled(tiny),
        }
