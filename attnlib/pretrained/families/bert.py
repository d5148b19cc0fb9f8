"""BERT, and what its kin share: post-norm layers with biases everywhere, learned positions, a norm after the embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from attnlib.attention.softmax import SoftmaxAttentionSpec
from attnlib.models.block import BlockSpec
from attnlib.models.encoder import EncoderSpec
from attnlib.models.heads import (
    ClassifyHeadSpec,
    HeadSpec,
    MaskedLMHeadSpec,
    NextSentenceHeadSpec,
    NoHeadSpec,
    PoolerHeadSpec,
    PretrainingHeadSpec,
    RTDHeadSpec,
    SpanHeadSpec,
    TagHeadSpec,
)
from attnlib.models.spec import ModelSpec
from attnlib.models.stack import StackSpec
from attnlib.nn.embeddings import EmbeddingSpec, LearnedSpec
from attnlib.nn.feed_forward import Activation, DenseSpec
from attnlib.nn.init import Normal
from attnlib.nn.norms import LayerNormSpec
from attnlib.pretrained.activations import activation_from, activation_name
from attnlib.pretrained.family import Family, HFConfig, Sample
from attnlib.pretrained.labels import labels_config, labels_from, problem_from
from attnlib.pretrained.parts import part
from attnlib.pretrained.rules import Alias, Ignore, Rename, Row, Tied, renames
from attnlib.pretrained.table import Table

Rules = list[Rename | Row | Tied | Ignore]


class Bert(Family):
    """Devlin et al. 2019 (arXiv:1810.04805)."""

    name = "bert"
    model_types = ("bert",)
    architectures: ClassVar[Mapping[str, str]] = {
        "BertForMaskedLM": "masked_lm",
        "BertModel": "pooler",
        "BertForSequenceClassification": "classify",
        "BertForTokenClassification": "tag",
        "BertForQuestionAnswering": "span",
        "BertForPreTraining": "pretraining",
        "BertForNextSentencePrediction": "next_sentence",
    }
    unties: ClassVar[bool] = False  # whether the vocabulary may have a table of its own
    prefix: ClassVar[str] = "bert."
    uncovered = "multiple choice, causal decoding, a vocabulary untied from the embedding"
    roots: ClassVar[Sequence[str]] = ("embeddings", "encoder", "pooler")  # what lies under the prefix
    keys: ClassVar[Mapping[str, str]] = {
        "width": "hidden_size", "layers": "num_hidden_layers", "heads": "num_attention_heads",
        "d_ff": "intermediate_size", "activation": "hidden_act", "dropout": "hidden_dropout_prob",
        "attention_dropout": "attention_probs_dropout_prob", "classifier_dropout": "classifier_dropout",
    }  # fmt: skip
    defaults: ClassVar[Mapping[str, Any]] = {"activation": "gelu", "dropout": 0.1, "attention_dropout": 0.1}
    layer: ClassVar[str] = "encoder.layer.{i}."
    names: ClassVar[Mapping[str, str]] = {
        "attention.self.query": "attention.body.q", "attention.self.key": "attention.body.k",
        "attention.self.value": "attention.body.v", "attention.output.dense": "attention.body.out",
        "attention.output.LayerNorm": "attention.outer", "intermediate.dense": "mlp.body.up",
        "output.dense": "mlp.body.down", "output.LayerNorm": "mlp.outer",
    }  # fmt: skip

    pooler: ClassVar[str] = "pooler.dense"
    relation: ClassVar[str] = "cls.seq_relationship"
    masked: ClassVar[str] = "cls.predictions."

    # -- configs ----------------------------------------------------------------------------------------------------

    def spec_from(self, config: HFConfig) -> EncoderSpec:
        self.refuse(config)
        key, norm = self.keys, self.norm(config)
        dropout = self.dropout(config)
        block = BlockSpec(
            placement="post",
            norm=norm,
            attention=SoftmaxAttentionSpec(
                num_heads=config.get(key["heads"], int),
                bias=True,
                dropout=self.dropout(config, "attention_dropout"),
            ),
            mlp=DenseSpec(d_ff=config.get(key["d_ff"], int), activation=self.activation(config)),
            dropout=dropout,
        )
        return EncoderSpec(
            d_model=config.get(key["width"], int),
            vocab_size=config.get("vocab_size", int),
            embedding=self.embedding(config).replace(norm=norm, dropout=dropout),
            stack=self.stack(config, block),
            head=self.head(config, self.architectures[self.architecture(config)], norm),
            init=Normal(scale=config.get("initializer_range", float, 0.02)),
        )

    def refuse(self, config: HFConfig) -> None:
        """Refuse by key what would be another model."""
        config.only("is_decoder", (False,))
        config.only("add_cross_attention", (False,))
        config.only("position_embedding_type", ("absolute",))
        if not self.unties and self.architectures[self.architecture(config)] in ("masked_lm", "pretraining"):
            config.only("tie_word_embeddings", (True,))  # untied, the bias would be two tensors, of which one is not read

    def dropout(self, config: HFConfig, key: str = "dropout") -> float:
        """The dropout under a key; that of the layers where a key is silent and has no default."""
        default = self.defaults.get(key)
        return config.get(self.keys[key], float, self.dropout(config) if default is None else default)

    def activation(self, config: HFConfig) -> Activation:
        return activation_from(config, self.keys["activation"], self.defaults["activation"])

    def norm(self, config: HFConfig) -> LayerNormSpec:
        return LayerNormSpec(eps=config.get("layer_norm_eps", float, 1e-12))

    def embedding(self, config: HFConfig) -> EmbeddingSpec:
        """Tables and their positions."""
        positions = LearnedSpec(max_length=config.get("max_position_embeddings", int, 512))
        return EmbeddingSpec(position=positions, types=config.get("type_vocab_size", int, 2))

    def stack(self, config: HFConfig, block: BlockSpec) -> StackSpec:
        return StackSpec(num_layers=config.get(self.keys["layers"], int), block=block)

    def head(self, config: HFConfig, kind: str, norm: LayerNormSpec) -> HeadSpec:
        """The head of a kind."""
        masked = MaskedLMHeadSpec(
            tied=config.get("tie_word_embeddings", bool, True),
            activation=self.activation(config),
            norm=norm,
        )
        dropout = self.dropout(config, "classifier_dropout")
        match kind:
            case "masked_lm":
                return masked
            case "pretraining":
                return PretrainingHeadSpec(tokens=masked)
            case "classify":
                return ClassifyHeadSpec(**labels_from(config), problem=problem_from(config), dropout=dropout)
            case "tag":
                return TagHeadSpec(**labels_from(config), dropout=dropout)
            case "rtd":
                return RTDHeadSpec(activation=masked.activation)
        fixed: dict[str, HeadSpec] = {
            "span": SpanHeadSpec(), "pooler": PoolerHeadSpec(), "next_sentence": NextSentenceHeadSpec(), "none": NoHeadSpec()
        }  # fmt: skip
        return fixed[kind]

    def config_from(self, spec: ModelSpec) -> dict[str, Any]:
        model = part(spec, EncoderSpec, "model")
        block = model.stack.layers[0]
        attention = part(block.attention, SoftmaxAttentionSpec, "model.stack.block.attention")
        mlp = part(block.mlp, DenseSpec, "model.stack.block.mlp")
        key = self.keys
        tree = {
            "model_type": self.model_types[0],
            "architectures": [self.architecture_of(spec)],
            "vocab_size": model.vocab_size,
            key["width"]: model.d_model,
            key["layers"]: model.stack.num_layers,
            key["heads"]: attention.num_heads,
            key["d_ff"]: mlp.d_ff,
            key["activation"]: activation_name(mlp.activation),
            key["dropout"]: block.dropout,
            key["attention_dropout"]: attention.dropout,
            **self.config_of(model),
            **labels_config(model.head),
            **({"initializer_range": model.init.scale} if isinstance(model.init, Normal) else {}),
        }
        self.say(spec, tree)
        return tree

    def config_of(self, spec: EncoderSpec) -> dict[str, Any]:
        """The keys that not all of the kin spell or have."""
        norm = part(spec.stack.layers[0].norm, LayerNormSpec, "model.stack.block.norm")
        position = part(spec.embedding.position, LearnedSpec, "model.embedding.position")
        return {
            "max_position_embeddings": position.max_length,
            "type_vocab_size": spec.embedding.types,
            "layer_norm_eps": norm.eps,
            "tie_word_embeddings": not isinstance(spec.head, MaskedLMHeadSpec) or spec.head.tied,
            **self.head_config(spec.head),
        }

    def head_config(self, head: HeadSpec) -> dict[str, Any]:
        """The dropout of a head, where a key of its own says it."""
        key = self.keys["classifier_dropout"]
        if not isinstance(head, ClassifyHeadSpec | TagHeadSpec) or key == self.keys["dropout"]:
            return {}
        return {key: head.dropout}

    # -- tensors ----------------------------------------------------------------------------------------------------

    def table(self, spec: ModelSpec) -> Table:
        bare = spec.head.kind in ("none", "pooler")
        top = "" if bare else self.prefix
        tables = {"word_embeddings": "token", "position_embeddings": "position"}
        if spec.embedding.types:
            tables["token_type_embeddings"] = "token_type"
        return Table(
            [
                *renames(f"{top}embeddings.", "embedding.", tables, parts=("weight",)),
                *renames(f"{top}embeddings.", "embedding.", {"LayerNorm": "norm"}),
                *self.layer_rules(spec, top),
                *self.more_rules(spec, top),
                *self.head_rules(spec.head, top),
                Ignore(f"{top}embeddings.position_ids", "counts from 0"),
            ],
            self.spellings(bare),
        )

    def layer_rules(self, spec: ModelSpec, top: str) -> Rules:
        return list(renames(top + self.layer, "stack.blocks.{i}.", self.names))

    def more_rules(self, spec: ModelSpec, top: str) -> Rules:
        """The names of tensors that not all of the kin have."""
        return []

    def head_rules(self, head: HeadSpec, top: str) -> Rules:
        """The names of the tensors of a head, and of what files carry beside it."""
        pooler, relation = {f"{top}{self.pooler}": "dense"}, {self.relation: "project"}
        no_pooler = Ignore(f"{top}pooler.{{*}}", "of a pooler, which this head does not read")
        no_relation = Ignore(f"{self.relation}.{{*}}", "of a head over two texts")
        match head.kind:
            case "pretraining":
                return [*self.predictions("head.tokens."), *renames("", "head.text.", {**pooler, **relation})]
            case "masked_lm":
                return [*self.predictions("head."), no_pooler, no_relation]
            case "next_sentence":
                return [*renames("", "head.", {**pooler, **relation}), Ignore("cls.predictions.{*}", "of a masked LM head")]
            case "classify":
                return list(renames("", "head.", {**pooler, "classifier": "project"}))
            case "tag":
                return [*renames("", "head.", {"classifier": "project"}), no_pooler]
            case "span":
                return [*renames("", "head.", {"qa_outputs": "project"}), no_pooler]
        return list(renames("", "head.", pooler)) if head.kind == "pooler" else []

    def predictions(self, ours: str) -> Rules:
        """The names of the masked-LM head. Its bias has two names, one of which older files leave out."""
        return [
            *renames(self.masked, ours, {"transform.dense": "dense", "transform.LayerNorm": "norm"}),
            *tied_vocabulary(self.masked, ours),
        ]

    def spellings(self, bare: bool) -> Sequence[Alias]:
        """Older names of norms, and the prefix that a class without a head leaves out, present or absent."""
        old = [Alias("{*}LayerNorm.gamma", "{*}LayerNorm.weight"), Alias("{*}LayerNorm.beta", "{*}LayerNorm.bias")]
        return [*old, *prefixed(self.prefix, self.roots, bare)]

    def untied(self, spec: ModelSpec, theirs: str) -> ModelSpec:
        head = spec.head
        if self.unties and isinstance(head, MaskedLMHeadSpec):
            return spec.replace(head=head.replace(tied=False))
        return super().untied(spec, theirs)

    # -- samples ----------------------------------------------------------------------------------------------------

    tiny: ClassVar[Mapping[str, Any]] = {
        "vocab_size": 61, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 32,
    }  # fmt: skip

    def samples(self) -> Mapping[str, Sample]:
        return {
            "masked LM": Sample("BertForMaskedLM", self.tiny),
            "one type, wide eps, relu": Sample(
                "BertForMaskedLM", {**self.tiny, "type_vocab_size": 1, "layer_norm_eps": 1e-3, "hidden_act": "relu"}
            ),
            "pooler": Sample("BertModel", self.tiny),
            "classes": Sample("BertForSequenceClassification", {**self.tiny, "num_labels": 3, "hidden_act": "gelu_new"}),
            "tags": Sample("BertForTokenClassification", {**self.tiny, "num_labels": 5}),
            "answers": Sample("BertForQuestionAnswering", self.tiny),
            "pre-training": Sample("BertForPreTraining", self.tiny),
            "next sentence": Sample("BertForNextSentencePrediction", self.tiny),
        }


def vocabulary(head: HeadSpec, theirs: str) -> Rename | Tied:
    """The rule of a vocabulary's weight: a tensor of its own, or the embedding's."""
    if isinstance(head, MaskedLMHeadSpec) and head.tied:
        return Tied(theirs, "embedding.token.weight")
    return Rename(theirs, "head.vocabulary.weight")


def tied_vocabulary(theirs: str, ours: str) -> Rules:
    """A bias of two names, one of which files may leave out, and the embedding's table."""
    return [
        Rename(f"{theirs}bias", f"{ours}vocabulary.bias"),
        Tied(f"{theirs}decoder.bias", f"{ours}vocabulary.bias"),
        Tied(f"{theirs}decoder.weight", "embedding.token.weight"),
    ]


def prefixed(prefix: str, roots: Sequence[str], bare: bool) -> list[Alias]:
    """Files of the class without a head lack the prefix that others have; either is read as what is wanted."""
    if bare:
        return [Alias(f"{prefix}{{*}}", "{*}")]
    return [Alias(f"{root}.{{*}}", f"{prefix}{root}.{{*}}") for root in roots]
