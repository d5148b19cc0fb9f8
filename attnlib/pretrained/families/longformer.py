"""Longformer: RoBERTa whose tokens see a window, and global ones by projections of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attnlib.attention.local_global import LocalGlobalSpec
from attnlib.attention.masks import AnyOf, Global, Window
from attnlib.errors import CheckpointError
from attnlib.models.block import BlockSpec
from attnlib.models.encoder import EncoderSpec
from attnlib.models.heads import ClassifyHeadSpec, HeadSpec
from attnlib.models.spec import ModelSpec
from attnlib.models.stack import StackSpec
from attnlib.nn.norms import LayerNormSpec
from attnlib.pretrained.families.bert import Rules
from attnlib.pretrained.families.roberta import Roberta
from attnlib.pretrained.family import HFConfig, Sample
from attnlib.pretrained.parts import part
from attnlib.pretrained.rules import renames

GLOBAL_NAMES = {"query_global": "global_q", "key_global": "global_k", "value_global": "global_v"}


def windowed(stack: StackSpec, config: HFConfig, first: int = 0) -> StackSpec:
    """A stack of alike blocks with the windows of a config, half to either side: `attention_window`, one or a list."""
    given = config.tree.get("attention_window", 512)
    listed = list(given) if isinstance(given, list | tuple) else [given] * stack.num_layers
    if len(listed) != stack.num_layers or any(not isinstance(n, int) or n < 2 or n % 2 for n in listed):
        wish = f"wish even numbers, one or {stack.num_layers}"
        raise CheckpointError(f"{config.where}: attention_window", f"is {given!r}", wish)
    block = stack.layers[0]
    told = {name: getattr(block.attention, name) for name in block.attention.model_fields_set} | {"first": first}

    def of(window: int) -> BlockSpec:
        mask = Window(before=window // 2, after=window // 2) | Global()
        return block.replace(attention=LocalGlobalSpec(**told | {"mask": mask}))

    if len(set(listed)) == 1:
        return stack.replace(block=of(listed[0]))
    blocks = {f"window {window}": of(window) for window in sorted(set(listed))}
    return stack.replace(block=None, blocks=blocks, pattern=tuple(f"window {window}" for window in listed))


def windows_config(stack: StackSpec, where: str) -> dict[str, Any]:
    """What a config says of those windows."""
    windows = []
    for layer in stack.layers:
        match part(layer.attention, LocalGlobalSpec, where).mask:
            case AnyOf(masks=(Window(before=int(before), after=int(after)), Global())) if before == after:
                windows.append(2 * before)
            case _:
                fact = "is not any of [window, global]"
                raise CheckpointError(f"{where}.mask", fact, "wish equal bounds to either side, and global")
    return {"attention_window": windows}


class Longformer(Roberta):
    """Beltagy et al. 2020 (arXiv:2004.05150)."""

    name = "longformer"
    model_types = ("longformer",)
    uncovered = "multiple choice, answers (the question's tokens would have to be found), an untied vocabulary"
    architectures = {
        "LongformerForMaskedLM": "masked_lm",
        "LongformerModel": "pooler",
        "LongformerForSequenceClassification": "classify",
        "LongformerForTokenClassification": "tag",
    }
    prefix = "longformer."

    def stack(self, config: HFConfig, block: BlockSpec) -> StackSpec:
        first = self.architectures[self.architecture(config)] == "classify"
        return windowed(super().stack(config, block), config, first=int(first))

    def head(self, config: HFConfig, kind: str, norm: LayerNormSpec) -> HeadSpec:
        made = super().head(config, kind, norm)
        if isinstance(made, ClassifyHeadSpec):
            dropout = self.dropout(config)
            return made.replace(dropout=dropout, hidden_dropout=dropout)
        return made

    def config_of(self, spec: EncoderSpec) -> dict[str, Any]:
        return {**super().config_of(spec), **windows_config(spec.stack, "model.stack.block.attention")}

    def layer_rules(self, spec: ModelSpec, top: str) -> Rules:
        theirs, ours = f"{top}{self.layer}attention.self.", "stack.blocks.{i}.attention.body."
        return [*super().layer_rules(spec, top), *renames(theirs, ours, GLOBAL_NAMES)]

    def samples(self) -> Mapping[str, Sample]:
        masked, headless, classes, tags = self.architectures
        tiny = {**self.tiny, "attention_window": 4, "pad_token_id": 1}
        return {
            "masked LM": Sample(masked, {**tiny, "type_vocab_size": 1}, attention="eager"),
            "windows by layer": Sample(masked, {**tiny, "attention_window": [4, 8]}, attention="eager"),
            "pooler": Sample(headless, tiny, attention="eager"),
            "classes, first token global": Sample(classes, {**tiny, "num_labels": 3}, attention="eager"),
            "tags": Sample(tags, {**tiny, "num_labels": 5}, attention="eager"),
        }
