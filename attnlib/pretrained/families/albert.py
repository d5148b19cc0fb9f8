"""ALBERT: BERT whose layers share their weights in groups, over a narrow embedding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from attnlib.errors import CheckpointError
from attnlib.models.block import BlockSpec
from attnlib.models.encoder import EncoderSpec
from attnlib.models.heads import HeadSpec, PretrainingHeadSpec
from attnlib.models.spec import ModelSpec
from attnlib.models.stack import SharingSpec, StackSpec
from attnlib.nn.embeddings import EmbeddingSpec
from attnlib.nn.norms import LayerNormSpec
from attnlib.pretrained.families.bert import Bert, Rules, tied_vocabulary
from attnlib.pretrained.family import HFConfig, Sample
from attnlib.pretrained.labels import labels_from
from attnlib.pretrained.parts import part
from attnlib.pretrained.rules import renames


class Albert(Bert):
    """Lan et al. 2020 (arXiv:1909.11942)."""

    name = "albert"
    model_types = ("albert",)
    architectures = {
        "AlbertForMaskedLM": "masked_lm",
        "AlbertModel": "pooler",
        "AlbertForPreTraining": "pretraining",
        "AlbertForSequenceClassification": "classify",
        "AlbertForTokenClassification": "tag",
        "AlbertForQuestionAnswering": "span",
    }
    uncovered = "multiple choice, groups of unlike size, an embedding as wide as the layers, an untied vocabulary"
    prefix = "albert."
    keys: ClassVar[Mapping[str, str]] = {**Bert.keys, "classifier_dropout": "classifier_dropout_prob"}
    defaults: ClassVar[Mapping[str, Any]] = {
        "activation": "gelu_new", "dropout": 0.0, "attention_dropout": 0.0, "classifier_dropout": 0.1,
    }  # fmt: skip
    names: ClassVar[Mapping[str, str]] = {
        "attention.query": "attention.body.q", "attention.key": "attention.body.k", "attention.value": "attention.body.v",
        "attention.dense": "attention.body.out", "attention.LayerNorm": "attention.outer", "ffn": "mlp.body.up",
        "ffn_output": "mlp.body.down", "full_layer_layer_norm": "mlp.outer",
    }  # fmt: skip
    pooler, relation, masked = "pooler", "sop_classifier.classifier", "predictions."

    def embedding(self, config: HFConfig) -> EmbeddingSpec:
        width = config.get("embedding_size", int, 128)
        if width == config.get("hidden_size", int):  # it would be projected all the same
            raise CheckpointError(f"{config.where}: embedding_size", f"is hidden_size ({width})", "wish another width")
        return super().embedding(config).replace(d_embedding=width)

    def stack(self, config: HFConfig, block: BlockSpec) -> StackSpec:
        """num_hidden_layers times the inner layers of a group; what the feed-forward adds has no dropout."""
        passes, inner = config.get("num_hidden_layers", int), config.get("inner_group_num", int, 1)
        groups = config.get("num_hidden_groups", int, 1)
        if groups < 1 or passes % groups:
            where = f"{config.where}: num_hidden_groups"
            raise CheckpointError(where, f"is {groups}", f"wish a divisor of num_hidden_layers ({passes})", "not built here")
        sharing = SharingSpec(groups=groups, cycle=inner)
        return StackSpec(num_layers=passes * inner, block=block.replace(mlp_dropout=0.0), sharing=sharing)

    def head(self, config: HFConfig, kind: str, norm: LayerNormSpec) -> HeadSpec:
        made = super().head(config, kind, norm)
        if not isinstance(made, PretrainingHeadSpec):
            return made
        if labels_from(config)["num_labels"] != 2:
            raise CheckpointError(f"{config.where}: id2label", "is of more than two labels", "wish two, of texts in order")
        return made.replace(text=made.text.replace(dropout=self.dropout(config, "classifier_dropout")))

    def config_of(self, spec: EncoderSpec) -> dict[str, Any]:
        sharing = part(spec.stack.sharing, SharingSpec, "model.stack.sharing")
        return {
            **super().config_of(spec),
            "embedding_size": spec.embedding.d_embedding or spec.d_model,
            "num_hidden_layers": spec.stack.num_layers // sharing.cycle,
            "num_hidden_groups": sharing.groups,
            "inner_group_num": sharing.cycle,
        }

    def head_config(self, head: HeadSpec) -> dict[str, Any]:
        if isinstance(head, PretrainingHeadSpec):
            return {self.keys["classifier_dropout"]: head.text.dropout}
        return super().head_config(head)

    def layer_rules(self, spec: ModelSpec, top: str) -> Rules:
        stack = part(spec, EncoderSpec, "model").stack
        sharing = part(stack.sharing, SharingSpec, "model.stack.sharing")
        rules: Rules = []
        for number, owner in enumerate(sorted(set(sharing.owners(stack.num_layers)))):
            group, inner = divmod(number, sharing.cycle)
            theirs = f"{top}encoder.albert_layer_groups.{group}.albert_layers.{inner}."
            rules += renames(theirs, f"stack.blocks.{owner}.", self.names)
        return rules

    def more_rules(self, spec: ModelSpec, top: str) -> Rules:
        return list(renames(f"{top}encoder.", "embedding.", {"embedding_hidden_mapping_in": "project"}))

    def predictions(self, ours: str) -> Rules:
        return [*renames(self.masked, ours, {"dense": "dense", "LayerNorm": "norm"}), *tied_vocabulary(self.masked, ours)]

    tiny: ClassVar[Mapping[str, Any]] = {**Bert.tiny, "embedding_size": 14, "hidden_act": "gelu"}

    def samples(self) -> Mapping[str, Sample]:
        grouped = {**self.tiny, "num_hidden_layers": 4, "num_hidden_groups": 2, "inner_group_num": 2}
        return {
            "one set of weights": Sample("AlbertForMaskedLM", self.tiny),
            "groups with inner layers": Sample("AlbertForMaskedLM", grouped),
            "a group a layer, tanh gelu": Sample("AlbertForMaskedLM", {
                **self.tiny, "num_hidden_groups": 2, "hidden_act": "gelu_new",
            }),
            "pooler": Sample("AlbertModel", grouped),
            "pre-training": Sample("AlbertForPreTraining", self.tiny),
            "classes": Sample("AlbertForSequenceClassification", {**self.tiny, "num_labels": 3}),
            "tags": Sample("AlbertForTokenClassification", {**self.tiny, "num_labels": 5}),
            "answers": Sample("AlbertForQuestionAnswering", self.tiny),
        }  # fmt: skip
