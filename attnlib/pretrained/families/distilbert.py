"""DistilBERT: BERT without token types and pooler, its config and its tensors under names of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from attnlib.models.block import BlockSpec
from attnlib.models.encoder import EncoderSpec
from attnlib.models.heads import ClassifyHeadSpec, HeadSpec, SpanHeadSpec
from attnlib.models.stack import StackSpec
from attnlib.nn.embeddings import EmbeddingSpec
from attnlib.nn.norms import LayerNormSpec
from attnlib.pretrained.families.bert import Bert, Rules, vocabulary
from attnlib.pretrained.family import HFConfig, Sample
from attnlib.pretrained.rules import Rename, renames


class DistilBert(Bert):
    """Sanh et al. 2019 (arXiv:1910.01108)."""

    name = "distilbert"
    model_types = ("distilbert",)
    architectures = {
        "DistilBertForMaskedLM": "masked_lm",
        "DistilBertModel": "none",
        "DistilBertForSequenceClassification": "classify",
        "DistilBertForTokenClassification": "tag",
        "DistilBertForQuestionAnswering": "span",
    }
    uncovered = "multiple choice"
    unties = True
    prefix = "distilbert."
    roots = ("embeddings", "transformer")
    keys: ClassVar[Mapping[str, str]] = {
        "width": "dim", "layers": "n_layers", "heads": "n_heads", "d_ff": "hidden_dim", "activation": "activation",
        "dropout": "dropout", "attention_dropout": "attention_dropout", "classifier_dropout": "dropout",
    }  # fmt: skip
    layer = "transformer.layer.{i}."
    names: ClassVar[Mapping[str, str]] = {
        "attention.q_lin": "attention.body.q", "attention.k_lin": "attention.body.k",
        "attention.v_lin": "attention.body.v", "attention.out_lin": "attention.body.out",
        "sa_layer_norm": "attention.outer", "ffn.lin1": "mlp.body.up", "ffn.lin2": "mlp.body.down",
        "output_layer_norm": "mlp.outer",
    }  # fmt: skip

    def norm(self, config: HFConfig) -> LayerNormSpec:
        return LayerNormSpec(eps=1e-12)

    def embedding(self, config: HFConfig) -> EmbeddingSpec:
        """A table of sinusoids is in the file like a learned one, and read from there."""
        config.only("sinusoidal_pos_embds", (False, True))
        return super().embedding(config).replace(types=0)

    def stack(self, config: HFConfig, block: BlockSpec) -> StackSpec:
        """What attention adds has no dropout."""
        return super().stack(config, block.replace(dropout=0.0, mlp_dropout=block.dropout))

    def head(self, config: HFConfig, kind: str, norm: LayerNormSpec) -> HeadSpec:
        made = super().head(config, kind, norm)
        if isinstance(made, ClassifyHeadSpec):
            return made.replace(activation="relu", dropout=config.get("seq_classif_dropout", float, 0.2))
        return made.replace(dropout=config.get("qa_dropout", float, 0.1)) if isinstance(made, SpanHeadSpec) else made

    def config_of(self, spec: EncoderSpec) -> dict[str, Any]:
        tree, block = super().config_of(spec), spec.stack.layers[0]
        del tree["type_vocab_size"], tree["layer_norm_eps"]
        return {**tree, "dropout": block.dropout if block.mlp_dropout is None else block.mlp_dropout}

    def head_config(self, head: HeadSpec) -> dict[str, Any]:
        match head:
            case ClassifyHeadSpec():
                return {"seq_classif_dropout": head.dropout}
            case SpanHeadSpec():
                return {"qa_dropout": head.dropout}
        return {}

    def head_rules(self, head: HeadSpec, top: str) -> Rules:
        match head.kind:
            case "masked_lm":
                parts = {"transform": "dense", "layer_norm": "norm"}
                bias = Rename("vocab_projector.bias", "head.vocabulary.bias")
                return [*renames("vocab_", "head.", parts), bias, vocabulary(head, "vocab_projector.weight")]
            case "classify":
                return list(renames("", "head.", {"pre_classifier": "dense", "classifier": "project"}))
        return super().head_rules(head, top)

    tiny: ClassVar[Mapping[str, Any]] = {
        "vocab_size": 61, "dim": 24, "hidden_dim": 40, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 32,
    }  # fmt: skip

    def samples(self) -> Mapping[str, Sample]:
        return {
            "masked LM": Sample("DistilBertForMaskedLM", self.tiny),
            "untied, sinusoids, relu": Sample("DistilBertForMaskedLM", {
                **self.tiny, "tie_word_embeddings": False, "sinusoidal_pos_embds": True, "activation": "relu",
            }),
            "headless": Sample("DistilBertModel", self.tiny),
            "classes": Sample("DistilBertForSequenceClassification", {**self.tiny, "num_labels": 3}),
            "tags": Sample("DistilBertForTokenClassification", {**self.tiny, "num_labels": 5}),
            "answers": Sample("DistilBertForQuestionAnswering", self.tiny),
        }  # fmt: skip
