"""RoBERTa: BERT whose positions begin behind the padding's id, without a pooler before its classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attnlib.models.encoder import EncoderSpec
from attnlib.models.heads import ClassifyHeadSpec, HeadSpec, MaskedLMHeadSpec
from attnlib.nn.embeddings import EmbeddingSpec, LearnedSpec
from attnlib.nn.norms import LayerNormSpec
from attnlib.pretrained.families.bert import Bert, Rules, tied_vocabulary
from attnlib.pretrained.family import HFConfig, Sample
from attnlib.pretrained.parts import part
from attnlib.pretrained.rules import Ignore, renames


class Roberta(Bert):
    """Liu et al. 2019 (arXiv:1907.11692)."""

    name = "roberta"
    model_types = ("roberta",)
    architectures = {
        "RobertaForMaskedLM": "masked_lm",
        "RobertaModel": "pooler",
        "RobertaForSequenceClassification": "classify",
        "RobertaForTokenClassification": "tag",
        "RobertaForQuestionAnswering": "span",
    }
    positions = "counted"
    prefix = "roberta."

    def padding(self, config: HFConfig) -> int:
        """The id of padding: real tokens have the positions behind it."""
        return config.get("pad_token_id", int, 1)

    def embedding(self, config: HFConfig) -> EmbeddingSpec:
        offset = self.padding(config) + 1
        rows = config.get("max_position_embeddings", int, 512)
        positions = LearnedSpec(max_length=rows - offset, offset=offset)
        return super().embedding(config).replace(position=positions)

    def head(self, config: HFConfig, kind: str, norm: LayerNormSpec) -> HeadSpec:
        made = super().head(config, kind, norm)
        if isinstance(made, MaskedLMHeadSpec):
            return made.replace(activation="gelu")
        return made.replace(hidden_dropout=made.dropout) if isinstance(made, ClassifyHeadSpec) else made

    def config_of(self, spec: EncoderSpec) -> dict[str, Any]:
        position = part(spec.embedding.position, LearnedSpec, "model.embedding.position")
        return {
            **super().config_of(spec),
            "max_position_embeddings": position.max_length + position.offset,
            "pad_token_id": max(position.offset - 1, 0),
        }

    def head_rules(self, head: HeadSpec, top: str) -> Rules:
        no_pooler = Ignore(f"{top}pooler.{{*}}", "of a pooler, which this head does not read")
        match head.kind:
            case "masked_lm":
                return [
                    *renames("lm_head.", "head.", {"dense": "dense", "layer_norm": "norm"}),
                    *tied_vocabulary("lm_head.", "head."),
                    no_pooler,
                ]
            case "classify":
                return [*renames("classifier.", "head.", {"dense": "dense", "out_proj": "project"}), no_pooler]
        return super().head_rules(head, top)

    def samples(self) -> Mapping[str, Sample]:
        masked, headless, classes, tags, answers = self.architectures
        return {
            "masked LM": Sample(masked, {**self.tiny, "type_vocab_size": 1}),
            "another padding, silu": Sample(masked, {**self.tiny, "pad_token_id": 4, "hidden_act": "silu"}),
            "pooler": Sample(headless, self.tiny),
            "classes": Sample(classes, {**self.tiny, "num_labels": 3}),
            "tags": Sample(tags, {**self.tiny, "num_labels": 5}),
            "answers": Sample(answers, self.tiny),
        }
