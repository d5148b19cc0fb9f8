"""MPNet: RoBERTa without token types, with one relative bias for all layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from attnlib.attention.biases import T5RelativeSpec
from attnlib.models.block import BlockSpec
from attnlib.models.encoder import EncoderSpec
from attnlib.models.spec import ModelSpec
from attnlib.models.stack import StackSpec
from attnlib.nn.embeddings import EmbeddingSpec
from attnlib.pretrained.families.bert import Rules
from attnlib.pretrained.families.roberta import Roberta
from attnlib.pretrained.family import HFConfig, Sample
from attnlib.pretrained.rules import Rename

BUCKETS, PADDING = 32, 1  # what the published code says whatever the config does


class MPNet(Roberta):
    """Song et al. 2020 (arXiv:2004.09297)."""

    name = "mpnet"
    model_types = ("mpnet",)
    architectures = {name.replace("Roberta", "MPNet"): kind for name, kind in Roberta.architectures.items()}
    uncovered = "multiple choice, other than 32 buckets, a vocabulary untied from the embedding"
    prefix = "mpnet."
    keys: ClassVar[Mapping[str, str]] = {**Roberta.keys, "classifier_dropout": Roberta.keys["dropout"]}
    names: ClassVar[Mapping[str, str]] = {
        "attention.attn.q": "attention.body.q", "attention.attn.k": "attention.body.k",
        "attention.attn.v": "attention.body.v", "attention.attn.o": "attention.body.out",
        "attention.LayerNorm": "attention.outer", "intermediate.dense": "mlp.body.up", "output.dense": "mlp.body.down",
        "output.LayerNorm": "mlp.outer",
    }  # fmt: skip

    def padding(self, config: HFConfig) -> int:
        return PADDING

    def embedding(self, config: HFConfig) -> EmbeddingSpec:
        return super().embedding(config).replace(types=0)

    def stack(self, config: HFConfig, block: BlockSpec) -> StackSpec:
        config.only("relative_attention_num_buckets", (BUCKETS,))
        return super().stack(config, block).replace(bias=T5RelativeSpec(buckets=BUCKETS, max_distance=128))

    def config_of(self, spec: EncoderSpec) -> dict[str, Any]:
        left_out = ("type_vocab_size", "pad_token_id")
        tree = {key: value for key, value in super().config_of(spec).items() if key not in left_out}
        return {**tree, "relative_attention_num_buckets": BUCKETS}

    def more_rules(self, spec: ModelSpec, top: str) -> Rules:
        return [Rename(f"{top}encoder.relative_attention_bias.weight", "stack.bias.table")]

    def samples(self) -> Mapping[str, Sample]:
        masked, headless, classes, tags, answers = self.architectures
        return {
            "masked LM": Sample(masked, self.tiny, "eager"),
            "three layers, relu": Sample(masked, {**self.tiny, "num_hidden_layers": 3, "hidden_act": "relu"}, "eager"),
            "pooler": Sample(headless, self.tiny, "eager"),
            "classes": Sample(classes, {**self.tiny, "num_labels": 3}, "eager"),
            "tags": Sample(tags, {**self.tiny, "num_labels": 5}, "eager"),
            "answers": Sample(answers, self.tiny, "eager"),
        }
