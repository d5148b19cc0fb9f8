"""ELECTRA: BERT over an embedding of its own width; a generator of masked tokens, a discriminator of replaced ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from attnlib.models.encoder import EncoderSpec
from attnlib.models.heads import ClassifyHeadSpec, HeadSpec, MaskedLMHeadSpec
from attnlib.models.spec import ModelSpec
from attnlib.nn.embeddings import EmbeddingSpec
from attnlib.nn.norms import LayerNormSpec
from attnlib.pretrained.families.bert import Bert, Rules, vocabulary
from attnlib.pretrained.family import HFConfig, Sample
from attnlib.pretrained.rules import Rename, renames


class Electra(Bert):
    """Clark et al. 2020 (arXiv:2003.10555)."""

    name = "electra"
    model_types = ("electra",)
    architectures = {
        "ElectraForPreTraining": "rtd",
        "ElectraForMaskedLM": "masked_lm",
        "ElectraModel": "none",
        "ElectraForSequenceClassification": "classify",
        "ElectraForTokenClassification": "tag",
        "ElectraForQuestionAnswering": "span",
    }
    uncovered = "multiple choice, causal decoding"
    unties = True
    prefix = "electra."
    roots = ("embeddings", "embeddings_project", "encoder")

    def embedding(self, config: HFConfig) -> EmbeddingSpec:
        width = config.get("embedding_size", int, 128)
        same = width == config.get("hidden_size", int)
        return super().embedding(config).replace(d_embedding=None if same else width)

    def head(self, config: HFConfig, kind: str, norm: LayerNormSpec) -> HeadSpec:
        made = super().head(config, kind, norm)
        if isinstance(made, MaskedLMHeadSpec):
            return made.replace(activation="gelu")
        return made.replace(activation="gelu", hidden_dropout=made.dropout) if isinstance(made, ClassifyHeadSpec) else made

    def config_of(self, spec: EncoderSpec) -> dict[str, Any]:
        return {**super().config_of(spec), "embedding_size": spec.embedding.d_embedding or spec.d_model}

    def more_rules(self, spec: ModelSpec, top: str) -> Rules:
        factorised = spec.embedding.d_embedding is not None
        return list(renames(top, "embedding.", {"embeddings_project": "project"})) if factorised else []

    def head_rules(self, head: HeadSpec, top: str) -> Rules:
        match head.kind:
            case "rtd":
                parts = {"dense": "dense", "dense_prediction": "project"}
                return list(renames("discriminator_predictions.", "head.", parts))
            case "masked_lm":
                parts = {"dense": "dense", "LayerNorm": "norm"}
                bias = Rename("generator_lm_head.bias", "head.vocabulary.bias")
                rules = renames("generator_predictions.", "head.", parts)
                return [*rules, bias, vocabulary(head, "generator_lm_head.weight")]
            case "classify":
                return list(renames("classifier.", "head.", {"dense": "dense", "out_proj": "project"}))
        return super().head_rules(head, top)

    tiny: ClassVar[Mapping[str, Any]] = {**Bert.tiny, "embedding_size": 14}

    def samples(self) -> Mapping[str, Sample]:
        equal = {**self.tiny, "embedding_size": 24}
        return {
            "discriminator": Sample("ElectraForPreTraining", self.tiny),
            "discriminator, one width, relu": Sample("ElectraForPreTraining", {**equal, "hidden_act": "relu"}),
            "generator": Sample("ElectraForMaskedLM", self.tiny),
            "generator, untied": Sample("ElectraForMaskedLM", {**self.tiny, "tie_word_embeddings": False}),
            "headless": Sample("ElectraModel", self.tiny),
            "classes": Sample("ElectraForSequenceClassification", {**self.tiny, "num_labels": 3}),
            "tags": Sample("ElectraForTokenClassification", {**self.tiny, "num_labels": 5}),
            "answers": Sample("ElectraForQuestionAnswering", equal),
        }
