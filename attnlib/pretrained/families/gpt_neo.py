"""GPT-Neo: GPT-2 with every other layer a window, scores that are not scaled, and no bias of queries, keys and values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attnlib.attention.scores import ScoresSpec
from attnlib.attention.softmax import SoftmaxAttentionSpec
from attnlib.errors import CheckpointError
from attnlib.models.block import BlockSpec
from attnlib.models.decoder import DecoderSpec
from attnlib.models.heads import LMHeadSpec
from attnlib.models.spec import ModelSpec
from attnlib.nn.embeddings import EmbeddingSpec, LearnedSpec
from attnlib.nn.feed_forward import DenseSpec
from attnlib.nn.init import Normal
from attnlib.nn.norms import LayerNormSpec
from attnlib.pretrained.activations import activation_from, activation_name
from attnlib.pretrained.decoder_family import DecoderFamily
from attnlib.pretrained.decoders import causal, head_from, layered, prefixes, window_of
from attnlib.pretrained.family import HFConfig, Sample
from attnlib.pretrained.rules import Ignore, renames
from attnlib.pretrained.table import Table

GLOBAL, LOCAL = "global", "local"
BODY = {f"{part}_proj": part for part in ("q", "k", "v", "out")}


class GPTNeo(DecoderFamily):
    """Black et al. 2021 (doi:10.5281/zenodo.5297715)."""

    name = "gpt_neo"
    model_types = ("gpt_neo",)
    tags = "classifier"
    architectures = {
        "GPTNeoForCausalLM": "lm", "GPTNeoModel": "none", "GPTNeoForSequenceClassification": "classify",
        "GPTNeoForTokenClassification": "tag", "GPTNeoForQuestionAnswering": "span",
    }  # fmt: skip

    def spec_from(self, config: HFConfig) -> DecoderSpec:
        width, kinds = config.get("hidden_size", int, 2048), _kinds(config)
        norm = LayerNormSpec(eps=config.get("layer_norm_epsilon", float, 1e-5))
        dropout = config.get("resid_dropout", float, 0.0)
        mlp = DenseSpec(
            d_ff=config.get("intermediate_size", int, 4 * width),
            activation=activation_from(config, "activation_function", "gelu_new"),
        )
        blocks = {
            kind: BlockSpec(norm=norm, attention=_attention(config, kind), mlp=mlp, dropout=dropout) for kind in set(kinds)
        }
        lm = LMHeadSpec(tied=config.get("tie_word_embeddings", bool, True))
        return DecoderSpec(
            d_model=width,
            vocab_size=config.get("vocab_size", int, 50257),
            embedding=EmbeddingSpec(
                position=LearnedSpec(max_length=config.get("max_position_embeddings", int, 2048)),
                dropout=config.get("embed_dropout", float, 0.0),
            ),
            stack=layered(kinds, blocks, norm),
            head=head_from(config, self.architectures[self.architecture(config)], lm),
            init=Normal(scale=config.get("initializer_range", float, 0.02)),
        )

    def keys(self, spec: ModelSpec, attentions: tuple[SoftmaxAttentionSpec, ...]) -> dict[str, Any]:
        block, mlp, norm = self.parts(spec, DenseSpec, LayerNormSpec)
        embedding, windows = spec.embedding, [window_of(attention.mask) for attention in attentions]
        return {
            "hidden_size": spec.d_model,
            "num_layers": len(attentions),
            "num_heads": attentions[0].num_heads,
            "intermediate_size": mlp.d_ff,
            "max_position_embeddings": embedding.position.max_length if isinstance(embedding.position, LearnedSpec) else 0,
            "attention_types": [[[GLOBAL if window is None else LOCAL for window in windows], 1]],
            "window_size": next((window for window in windows if window is not None), 256),
            "activation_function": activation_name(mlp.activation, "gelu_new"),
            "layer_norm_epsilon": norm.eps,
            "embed_dropout": embedding.dropout,
            "attention_dropout": attentions[0].dropout,
            "resid_dropout": block.dropout,
        }

    def table(self, spec: ModelSpec) -> Table:
        top = "" if spec.head.kind == "none" else "transformer."
        theirs, ours = f"{top}h.{{i}}.", "stack.blocks.{i}."
        return Table(
            [
                *renames(top, "embedding.", {"wte": "token", "wpe": "position"}, parts=("weight",)),
                *renames(theirs, ours, {"ln_1": "attention.before", "ln_2": "mlp.before"}),
                *renames(f"{theirs}attn.attention.", f"{ours}attention.body.", BODY),
                *renames(f"{theirs}mlp.", f"{ours}mlp.body.", {"c_fc": "up", "c_proj": "down"}),
                *renames(top, "stack.", {"ln_f": "final_norm"}),
                *self.head_rules(spec),
                *(Ignore(f"{theirs}attn.attention.{name}", "a mask, which is ours to make") for name in MASKS),
            ],
            prefixes(top, ("", "transformer."), ("wte.{*}", "wpe.{*}", "h.{*}", "ln_f.{*}")),
        )

    def samples(self) -> Mapping[str, Sample]:
        tiny = {
            "vocab_size": 61, "hidden_size": 24, "num_layers": 4, "num_heads": 4, "max_position_embeddings": 40,
            "attention_types": [[[GLOBAL, LOCAL], 2]], "window_size": 5,
        }  # fmt: skip
        variants: dict[str, dict[str, Any]] = {
            "alternating": {},
            "untied, wide eps": {"tie_word_embeddings": False, "layer_norm_epsilon": 1e-3, "intermediate_size": 50},
            "windows everywhere": {"attention_types": [[[LOCAL], 4]], "activation_function": "relu"},
            "no window": {"attention_types": [[[GLOBAL], 1], [[GLOBAL], 3]]},
        }
        made = {**self.variants(tiny, variants), **self.labelled(tiny)}
        return {name: sample._replace(attention="eager") for name, sample in made.items()}  # they have no other


MASKS = ("bias", "masked_bias")  # of older files


def _attention(config: HFConfig, kind: str) -> SoftmaxAttentionSpec:
    return SoftmaxAttentionSpec(
        num_heads=config.get("num_heads", int, 16),
        mask=causal(config.get("window_size", int, 256) if kind == LOCAL else None),
        bias=("out",),
        scores=ScoresSpec(scale=1.0),
        dropout=config.get("attention_dropout", float, 0.0),
    )


def _kinds(config: HFConfig) -> tuple[str, ...]:
    """The kind of every layer: `attention_types` repeats lists of them, [[["global", "local"], 12]]."""
    groups = config.get("attention_types", list, [[[GLOBAL, LOCAL], 12]])
    try:
        kinds = tuple(kind for names, times in groups for _ in range(times) for kind in names)
    except (TypeError, ValueError):
        kinds = (str(groups),)
    where = f"{config.where}: attention_types"
    if odd := [kind for kind in kinds if kind not in (GLOBAL, LOCAL)]:
        raise CheckpointError(where, f"names {str(odd[0])[:80]!r}", f"wish {GLOBAL} or {LOCAL}, [[[names], times]]")
    if len(kinds) != (count := config.get("num_layers", int, 24)):
        raise CheckpointError(where, f"names {len(kinds)} layers", f"wish num_layers ({count})")
    return kinds
