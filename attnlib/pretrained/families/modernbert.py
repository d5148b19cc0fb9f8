"""ModernBERT: norms before sublayers, rotary positions, windows between full layers, gated feed-forwards, few biases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attnlib.attention.masks import Everything, Mask, Window
from attnlib.attention.rotary import Rotary
from attnlib.attention.softmax import SoftmaxAttentionSpec
from attnlib.errors import CheckpointError
from attnlib.models.block import BlockSpec
from attnlib.models.encoder import EncoderSpec
from attnlib.models.heads import (
    ClassifyHeadSpec,
    HeadSpec,
    MaskedLMHeadSpec,
    NoHeadSpec,
    SpanHeadSpec,
    TagHeadSpec,
)
from attnlib.models.spec import ModelSpec
from attnlib.nn.embeddings import EmbeddingSpec
from attnlib.nn.feed_forward import GatedSpec
from attnlib.nn.init import Normal
from attnlib.nn.norms import LayerNormSpec
from attnlib.pretrained.activations import activation_from, activation_name
from attnlib.pretrained.decoders import FULL, SLIDING, kinds_from, layered
from attnlib.pretrained.family import Family, HFConfig, Sample
from attnlib.pretrained.labels import labels_config, labels_from, problem_from
from attnlib.pretrained.parts import part
from attnlib.pretrained.rope import rope_config, rotary_from
from attnlib.pretrained.rules import Alias, Rename, Rule, Split, Tied, renames
from attnlib.pretrained.table import Table

FIRST = "first, "  # the block of the first layer, beside that of its kind
OLD_BASES = {FULL: ("global_rope_theta", 160000.0), SLIDING: ("local_rope_theta", 10000.0)}
POOLINGS = {"cls": "first", "mean": "mean"}
BLOCK = "model.stack.block"


class ModernBert(Family):
    """Warner et al. 2024 (arXiv:2412.13663)."""

    name = "modernbert"
    model_types = ("modernbert",)
    uncovered = "multiple choice, the decoder variant"
    architectures = {
        "ModernBertForMaskedLM": "masked_lm", "ModernBertModel": "none",
        "ModernBertForSequenceClassification": "classify", "ModernBertForTokenClassification": "tag",
        "ModernBertForQuestionAnswering": "span",
    }  # fmt: skip

    # -- from a config ----------------------------------------------------------------------------------------------

    def spec_from(self, config: HFConfig) -> EncoderSpec:
        count, every = config.get("num_hidden_layers", int), config.get("global_attn_every_n_layers", int, 3)
        kinds = kinds_from(config, [SLIDING if i % every else FULL for i in range(count)])
        norm = _norm(config)
        blocks = {kind: self._block(config, kind, norm) for kind in set(kinds)}
        first = {FIRST + kinds[0]: blocks[kinds[0]].replace(attention_norm=False)}
        return EncoderSpec(
            d_model=config.get("hidden_size", int),
            vocab_size=config.get("vocab_size", int),
            embedding=EmbeddingSpec(norm=norm, dropout=config.get("embedding_dropout", float, 0.0)),
            stack=layered((FIRST + kinds[0], *kinds[1:]), blocks | first, norm),
            head=self._head(config, norm),
            init=Normal(scale=config.get("initializer_range", float, 0.02)),
        )

    def _block(self, config: HFConfig, kind: str, norm: LayerNormSpec) -> BlockSpec:
        dropout, (old, base) = config.get("attention_dropout", float, 0.0), OLD_BASES[kind]
        reach = config.get("local_attention", int, 128) // 2  # on either side
        attention = SoftmaxAttentionSpec(
            num_heads=config.get("num_attention_heads", int),
            mask=Everything() if kind == FULL else Window(before=reach, after=reach),
            rotary=rotary_from(config.over({old: base}), kind, theta=old).replace(exact="products"),
            bias=config.get("attention_bias", bool, False),
            dropout=dropout,
        )
        mlp = GatedSpec(
            d_ff=config.get("intermediate_size", int),
            activation=activation_from(config, "hidden_activation", "gelu"),
            bias=config.get("mlp_bias", bool, False),
            dropout=config.get("mlp_dropout", float, 0.0),
        )
        return BlockSpec(norm=norm, attention=attention, mlp=mlp, dropout=dropout, mlp_dropout=0.0)

    def _head(self, config: HFConfig, norm: LayerNormSpec) -> HeadSpec:
        config.only("classifier_pooling", tuple(POOLINGS))
        hidden: dict[str, Any] = {
            "activation": activation_from(config, "classifier_activation", "gelu"),
            "norm": norm,
            "hidden_bias": config.get("classifier_bias", bool, False),
        }
        labelled = {**hidden, "hidden": True, "dropout": config.get("classifier_dropout", float, 0.0)}
        match self.architectures[self.architecture(config)]:
            case "masked_lm":
                tied = config.get("tie_word_embeddings", bool, True)
                return MaskedLMHeadSpec(**hidden, tied=tied, bias=config.get("decoder_bias", bool, True))
            case "classify":
                pooling: Any = POOLINGS[config.get("classifier_pooling", str, "cls")]
                return ClassifyHeadSpec(**labelled, **labels_from(config), problem=problem_from(config), pooling=pooling)
            case "tag":
                return TagHeadSpec(**labelled, **labels_from(config))
            case "span":
                return SpanHeadSpec(**labelled)
        return NoHeadSpec()

    # -- to a config ------------------------------------------------------------------------------------------------

    def config_from(self, spec: ModelSpec) -> dict[str, Any]:
        model = part(spec, EncoderSpec, "model")
        layers = model.stack.layers
        attentions = [part(layer.attention, SoftmaxAttentionSpec, f"{BLOCK}.attention") for layer in layers]
        mlp, norm = part(layers[0].mlp, GatedSpec, f"{BLOCK}.mlp"), part(layers[0].norm, LayerNormSpec, f"{BLOCK}.norm")
        kinds = [_kind(attention.mask) for attention in attentions]
        found = {kind: rope_config(a.rotary or Rotary(), f"{BLOCK}.attention.rotary") for kind, a in zip(kinds, attentions)}
        windows = [a.mask.before for a in attentions if isinstance(a.mask, Window) and a.mask.before is not None]
        tree = {
            "model_type": "modernbert",
            "architectures": [self.architecture_of(spec)],
            "vocab_size": model.vocab_size,
            "hidden_size": model.d_model,
            "intermediate_size": mlp.d_ff,
            "num_hidden_layers": len(layers),
            "num_attention_heads": attentions[0].num_heads,
            "hidden_activation": activation_name(mlp.activation),
            "norm_eps": norm.eps,
            "norm_bias": norm.bias,
            "attention_bias": bool(attentions[0].bias),
            "attention_dropout": attentions[0].dropout,
            "mlp_bias": mlp.bias,
            "mlp_dropout": mlp.dropout,
            "embedding_dropout": model.embedding.dropout,
            "layer_types": kinds,
            "local_attention": 2 * max(windows, default=64),
            "rope_parameters": {kind: found[kind]["rope_parameters"] if kind in found else {"rope_type": "default"}
                                for kind in OLD_BASES},
            "max_position_embeddings": max(each["max_position_embeddings"] for each in found.values()),
            **_head_config(model.head),
            **({"initializer_range": model.init.scale} if isinstance(model.init, Normal) else {}),
        }  # fmt: skip
        self.say(spec, tree)
        return tree

    # -- names ------------------------------------------------------------------------------------------------------

    def table(self, spec: ModelSpec) -> Table:
        top = "" if spec.head.kind == "none" else "model."
        theirs, ours = f"{top}layers.{{i}}.", "stack.blocks.{i}."
        tops = {"embeddings.norm": "embedding.norm", "final_norm": "stack.final_norm"}
        names = {
            "attn_norm": "attention.before", "mlp_norm": "mlp.before", "attn.Wo": "attention.body.out",
            "mlp.Wo": "mlp.body.down",
        }  # fmt: skip
        roots = ("embeddings", "layers", "final_norm")
        other = "model." if not top else ""
        return Table(
            [
                Rename(f"{top}embeddings.tok_embeddings.weight", "embedding.token.weight"),
                *renames(top, "", tops),
                *renames(theirs, ours, names),
                *(Split(f"{theirs}attn.Wqkv.{kind}", tuple(f"{ours}attention.body.{name}.{kind}" for name in "qkv"))
                  for kind in ("weight", "bias")),
                *(Split(f"{theirs}mlp.Wi.{kind}", tuple(f"{ours}mlp.body.{name}.{kind}" for name in ("gate", "up")))
                  for kind in ("weight", "bias")),
                *_head_rules(spec.head),
            ],
            [Alias(f"{other}{root}.{{*}}", f"{top}{root}.{{*}}") for root in roots],
        )  # fmt: skip

    def untied(self, spec: ModelSpec, theirs: str) -> ModelSpec:
        if theirs != "decoder.weight" or not isinstance(spec.head, MaskedLMHeadSpec):
            return super().untied(spec, theirs)
        return spec.replace(head=spec.head.replace(tied=False))

    # -- proof ------------------------------------------------------------------------------------------------------

    def samples(self) -> Mapping[str, Sample]:
        tiny = {
            "vocab_size": 61, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 4,
            "num_attention_heads": 4, "local_attention": 6, "pad_token_id": 0,
        }  # fmt: skip
        biased = dict.fromkeys(("norm_bias", "attention_bias", "mlp_bias", "classifier_bias"), True)
        linear = {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0}
        made: dict[str, tuple[str, dict[str, Any]]] = {
            "masked LM": ("MaskedLM", {}),
            "biases, untied": ("MaskedLM", {**biased, "tie_word_embeddings": False, "norm_eps": 1e-3}),
            "no bias of the vocabulary": ("MaskedLM", {"decoder_bias": False, "hidden_activation": "silu"}),
            "windows everywhere": ("MaskedLM", {"layer_types": [SLIDING] * 4}),
            "two bases, linear": ("MaskedLM", {
                "layer_types": [SLIDING, FULL, SLIDING, SLIDING],
                "rope_parameters": {FULL: linear, SLIDING: {"rope_type": "default", "rope_theta": 300.0}},
            }),
            "classes, first": ("SequenceClassification", {"num_labels": 3, "classifier_activation": "relu"}),
            "classes, mean": ("SequenceClassification", {**biased, "classifier_pooling": "mean"}),
            "tags": ("TokenClassification", {"num_labels": 5}),
            "answers": ("QuestionAnswering", {}),
        }  # fmt: skip
        samples = {name: Sample(f"ModernBertFor{head}", {**tiny, **more}) for name, (head, more) in made.items()}
        return {**samples, "headless": Sample("ModernBertModel", tiny)}


def _norm(config: HFConfig) -> LayerNormSpec:
    return LayerNormSpec(eps=config.get("norm_eps", float, 1e-5), bias=config.get("norm_bias", bool, False))


def _kind(mask: Mask) -> str:
    if isinstance(mask, Everything):
        return FULL
    if isinstance(mask, Window):
        return SLIDING
    raise CheckpointError(f"{BLOCK}.attention.mask", f"is of kind {mask.kind!r}", "wish everything or a window")


def _head_config(head: HeadSpec) -> dict[str, Any]:
    """What a config says of the head."""
    found: dict[str, Any] = {"tie_word_embeddings": True, **labels_config(head)}
    if isinstance(head, MaskedLMHeadSpec):
        found |= {"tie_word_embeddings": head.tied, "decoder_bias": head.bias}
    elif isinstance(head, ClassifyHeadSpec | TagHeadSpec | SpanHeadSpec):
        found["classifier_dropout"] = head.dropout
    if isinstance(head, ClassifyHeadSpec):
        found["classifier_pooling"] = next((theirs for theirs, ours in POOLINGS.items() if ours == head.pooling), "cls")
    if isinstance(head, MaskedLMHeadSpec | ClassifyHeadSpec | TagHeadSpec | SpanHeadSpec):
        found |= {"classifier_activation": activation_name(head.activation), "classifier_bias": head.hidden_bias}
    return found


def _head_rules(head: HeadSpec) -> list[Rule | Tied]:
    if head.kind == "none":
        return []
    hidden = renames("head.", "head.", {"dense": "dense", "norm": "norm"})
    if not isinstance(head, MaskedLMHeadSpec):
        return [*hidden, *renames("", "head.", {"classifier": "project"})]
    tied = Tied("decoder.weight", "embedding.token.weight")
    weight = tied if head.tied else Rename("decoder.weight", "head.vocabulary.weight")
    return [*hidden, weight, Rename("decoder.bias", "head.vocabulary.bias")]
