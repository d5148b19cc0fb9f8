"""GPT-2: layer norms before each sublayer, learned positions, weights stored [in, out] with q, k and v in one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attnlib.attention.masks import Causal
from attnlib.attention.scores import ScoresSpec
from attnlib.attention.softmax import SoftmaxAttentionSpec
from attnlib.models.block import BlockSpec
from attnlib.models.decoder import DecoderSpec
from attnlib.models.heads import LMHeadSpec
from attnlib.models.spec import ModelSpec
from attnlib.models.stack import StackSpec
from attnlib.nn.embeddings import EmbeddingSpec, LearnedSpec
from attnlib.nn.feed_forward import DenseSpec
from attnlib.nn.init import DepthScaled
from attnlib.nn.norms import LayerNormSpec
from attnlib.pretrained.activations import activation_from, activation_name
from attnlib.pretrained.decoder_family import DecoderFamily
from attnlib.pretrained.decoders import head_from, prefixes
from attnlib.pretrained.family import HFConfig, Sample
from attnlib.pretrained.rules import Ignore, Split, renames
from attnlib.pretrained.table import Table


class GPT2(DecoderFamily):
    """Radford et al. 2019."""

    name = "gpt2"
    model_types = ("gpt2",)
    tags = "classifier"
    uncovered = "cross-attention, the double-heads model"
    architectures = {
        "GPT2LMHeadModel": "lm", "GPT2Model": "none", "GPT2ForSequenceClassification": "classify",
        "GPT2ForTokenClassification": "tag", "GPT2ForQuestionAnswering": "span",
    }  # fmt: skip

    def spec_from(self, config: HFConfig) -> DecoderSpec:
        config.only("add_cross_attention", (False,))
        config.only("is_decoder", (False, True))  # causal either way
        width, norm = config.get("n_embd", int, 768), LayerNormSpec(eps=config.get("layer_norm_epsilon", float, 1e-5))
        attention = SoftmaxAttentionSpec(
            num_heads=config.get("n_head", int, 12),
            mask=Causal(),
            bias=True,
            scores=ScoresSpec(
                scale=None if config.get("scale_attn_weights", bool, True) else 1.0,
                by_layer=config.get("scale_attn_by_inverse_layer_idx", bool, False),
            ),
            dropout=config.get("attn_pdrop", float, 0.1),
        )
        mlp = DenseSpec(
            d_ff=config.get("n_inner", int, 4 * width), activation=activation_from(config, "activation_function", "gelu_new")
        )
        return DecoderSpec(
            d_model=width,
            vocab_size=config.get("vocab_size", int, 50257),
            embedding=EmbeddingSpec(
                position=LearnedSpec(max_length=config.get("n_positions", int, 1024)),
                dropout=config.get("embd_pdrop", float, 0.1),
            ),
            stack=StackSpec(
                num_layers=config.get("n_layer", int, 12),
                block=BlockSpec(norm=norm, attention=attention, mlp=mlp, dropout=config.get("resid_pdrop", float, 0.1)),
                final_norm=norm,
            ),
            head=head_from(
                config, self.architectures[self.architecture(config)],
                LMHeadSpec(tied=config.get("tie_word_embeddings", bool, True)),
            ),
            init=DepthScaled(scale=config.get("initializer_range", float, 0.02)),
        )  # fmt: skip

    def keys(self, spec: ModelSpec, attentions: tuple[SoftmaxAttentionSpec, ...]) -> dict[str, Any]:
        block, mlp, norm = self.parts(spec, DenseSpec, LayerNormSpec)
        attention = attentions[0]
        embedding = spec.embedding
        return {
            "n_embd": spec.d_model,
            "n_layer": len(attentions),
            "n_head": attention.num_heads,
            "n_inner": mlp.d_ff,
            "n_positions": embedding.position.max_length if isinstance(embedding.position, LearnedSpec) else 0,
            "activation_function": activation_name(mlp.activation, "gelu_new"),
            "layer_norm_epsilon": norm.eps,
            "scale_attn_weights": attention.scores.scale is None,
            "scale_attn_by_inverse_layer_idx": attention.scores.by_layer,
            "embd_pdrop": embedding.dropout,
            "attn_pdrop": attention.dropout,
            "resid_pdrop": block.dropout,
        }

    def table(self, spec: ModelSpec) -> Table:
        top = "" if spec.head.kind == "none" else "transformer."
        theirs, ours = f"{top}h.{{i}}.", "stack.blocks.{i}."
        qkv = [tuple(f"{ours}attention.body.{part}.{leaf}" for part in "qkv") for leaf in ("weight", "bias")]
        return Table(
            [
                *renames(top, "embedding.", {"wte": "token", "wpe": "position"}, parts=("weight",)),
                *renames(theirs, ours, {"ln_1": "attention.before", "ln_2": "mlp.before"}),
                Split(f"{theirs}attn.c_attn.weight", qkv[0], transpose=True),
                Split(f"{theirs}attn.c_attn.bias", qkv[1]),
                *renames(f"{theirs}attn.", f"{ours}attention.body.", {"c_proj": "out"}, transpose=True),
                *renames(f"{theirs}mlp.", f"{ours}mlp.body.", {"c_fc": "up", "c_proj": "down"}, transpose=True),
                *renames(top, "stack.", {"ln_f": "final_norm"}),
                *self.head_rules(spec),
                *(Ignore(f"{theirs}attn.{name}", "a mask, which is ours to make") for name in ("bias", "masked_bias")),
            ],
            prefixes(top, ("", "transformer."), ("wte.{*}", "wpe.{*}", "h.{*}", "ln_f.{*}")),
        )

    def samples(self) -> Mapping[str, Sample]:
        tiny = {"vocab_size": 61, "n_embd": 24, "n_layer": 3, "n_head": 4, "n_positions": 40}
        variants: dict[str, dict[str, Any]] = {
            "plain": {},
            "untied": {"tie_word_embeddings": False, "n_inner": 50, "layer_norm_epsilon": 1e-3},
            "scaled by layer": {"scale_attn_by_inverse_layer_idx": True, "activation_function": "relu"},
            "unscaled": {"scale_attn_weights": False, "activation_function": "gelu"},
        }
        return {
            **self.variants(tiny, variants),
            **self.labelled(tiny),
        }
