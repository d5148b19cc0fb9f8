"""Nystromformer: BERT by landmarks, with a convolution of the values, positions from 2 on, and RoBERTa's classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from attnlib.attention.nystrom import NystromSpec
from attnlib.models.block import BlockSpec
from attnlib.models.encoder import EncoderSpec
from attnlib.models.heads import ClassifyHeadSpec, HeadSpec
from attnlib.models.spec import ModelSpec
from attnlib.models.stack import StackSpec
from attnlib.nn.embeddings import EmbeddingSpec, LearnedSpec
from attnlib.nn.norms import LayerNormSpec
from attnlib.pretrained.families.bert import Bert, Rules
from attnlib.pretrained.family import HFConfig, Sample
from attnlib.pretrained.parts import part
from attnlib.pretrained.rules import Row, renames

FIRST = 2  # the row of the first position, whatever the config does


class Nystromformer(Bert):
    """Xiong et al. 2021 (arXiv:2102.03902)."""

    name = "nystromformer"
    model_types = ("nystromformer",)
    uncovered = "multiple choice, padding (theirs takes no mask), an untied vocabulary"
    architectures = {
        "NystromformerForMaskedLM": "masked_lm",
        "NystromformerModel": "none",
        "NystromformerForSequenceClassification": "classify",
        "NystromformerForTokenClassification": "tag",
        "NystromformerForQuestionAnswering": "span",
    }
    pads = False
    halves = False
    positions = "counted"
    prefix = "nystromformer."
    defaults: ClassVar[Mapping[str, Any]] = {**Bert.defaults, "activation": "gelu_new"}
    keys: ClassVar[Mapping[str, str]] = {**Bert.keys, "classifier_dropout": Bert.keys["dropout"]}

    def refuse(self, config: HFConfig) -> None:
        super().refuse(config)
        config.only("inv_coeff_init_option", (False,))

    def norm(self, config: HFConfig) -> LayerNormSpec:
        return LayerNormSpec(eps=config.get("layer_norm_eps", float, 1e-5))

    def embedding(self, config: HFConfig) -> EmbeddingSpec:
        positions = LearnedSpec(max_length=config.get("max_position_embeddings", int, 510), offset=FIRST)
        return super().embedding(config).replace(position=positions)

    def stack(self, config: HFConfig, block: BlockSpec) -> StackSpec:
        plain = block.attention
        attention = NystromSpec(
            **{name: getattr(plain, name) for name in plain.model_fields_set},
            num_landmarks=config.get("num_landmarks", int, 64),
            length=config.get("segment_means_seq_len", int, 64),
            kernel=config.get("conv_kernel_size", int, 65),
            together=True,
        )
        return super().stack(config, block.replace(attention=attention))

    def head(self, config: HFConfig, kind: str, norm: LayerNormSpec) -> HeadSpec:
        made = super().head(config, kind, norm)
        if isinstance(made, ClassifyHeadSpec):
            return made.replace(hidden_dropout=made.dropout, activation=self.activation(config))
        return made

    def config_of(self, spec: EncoderSpec) -> dict[str, Any]:
        attention = part(spec.stack.layers[0].attention, NystromSpec, "model.stack.block.attention")
        return {
            **super().config_of(spec),
            "num_landmarks": attention.num_landmarks,
            "segment_means_seq_len": attention.length or attention.num_landmarks,
            "conv_kernel_size": attention.kernel,
        }

    def layer_rules(self, spec: ModelSpec, top: str) -> Rules:
        conv = Row(f"{top}{self.layer}attention.self.conv.weight", "stack.blocks.{i}.attention.body.conv", (1, 3))
        return [*super().layer_rules(spec, top), conv]

    def head_rules(self, head: HeadSpec, top: str) -> Rules:
        if head.kind == "classify":
            return list(renames("classifier.", "head.", {"dense": "dense", "out_proj": "project"}))
        return super().head_rules(head, top)

    def samples(self) -> Mapping[str, Sample]:
        masked, headless, classes, tags, answers = self.architectures
        tiny = {**self.tiny, "max_position_embeddings": 20, "segment_means_seq_len": 20, "num_landmarks": 4,
                "conv_kernel_size": 5}  # fmt: skip
        return {
            "masked LM": Sample(masked, tiny, "eager"),
            "softmax itself": Sample(masked, {**tiny, "num_landmarks": 20, "max_position_embeddings": 32}, "eager"),
            "headless": Sample(headless, {**tiny, "num_landmarks": 10, "type_vocab_size": 1}, "eager"),
            "classes": Sample(classes, {**tiny, "num_labels": 3, "hidden_act": "relu"}, "eager"),
            "tags": Sample(tags, {**tiny, "num_labels": 5}, "eager"),
            "answers": Sample(answers, tiny, "eager"),
        }
