"""Longformer: RoBERTa whose tokens see a window, and global ones by projections of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attnlib.attention.local_global import LocalGlobalSpec
from attnlib.attention.masks import AnyOf, Global, Mask, Window
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
from attnlib.pretrained.rules import Rename, renames

ATTENTION = "model.stack.block.attention"


def windows_from(config: HFConfig, layers: int) -> list[int]:
    """Tokens seen to either side, a layer each: half of `attention_window`, one number or a list."""
    given = config.tree.get("attention_window", 512)
    listed = list(given) if isinstance(given, list | tuple) else [given] * layers
    if len(listed) != layers or any(not isinstance(n, int) or n < 2 or n % 2 for n in listed):
        raise CheckpointError("config.json: attention_window", f"is {given!r}", f"wish even numbers, one or {layers}")
    return [n // 2 for n in listed]


def local_and_global(reach: int) -> Mask:
    """A window, and all that is global."""
    return Window(before=reach, after=reach) | Global()


def reach_of(mask: Mask, where: str) -> int:
    """The tokens to either side of such a mask."""
    match mask:
        case AnyOf(masks=(Window(before=int(before), after=int(after)), Global())) if before == after:
            return before
    raise CheckpointError(f"{where}.mask", "is not any of [window, global]", "wish equal bounds to either side, and global")


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
        layers = config.get(self.keys["layers"], int)
        reaches = windows_from(config, layers)
        plain = block.attention
        first = int(self.architectures[self.architecture(config)] == "classify")
        common = {name: getattr(plain, name) for name in plain.model_fields_set}

        def of(reach: int) -> BlockSpec:
            return block.replace(attention=LocalGlobalSpec(**common, mask=local_and_global(reach), first=first))

        if len(set(reaches)) == 1:
            return StackSpec(num_layers=layers, block=of(reaches[0]))
        blocks = {f"window {reach}": of(reach) for reach in sorted(set(reaches))}
        return StackSpec(num_layers=layers, blocks=blocks, pattern=tuple(f"window {reach}" for reach in reaches))

    def head(self, config: HFConfig, kind: str, norm: LayerNormSpec) -> HeadSpec:
        made = super().head(config, kind, norm)
        if isinstance(made, ClassifyHeadSpec):
            dropout = self.dropout(config)
            return made.replace(dropout=dropout, hidden_dropout=dropout)
        return made

    def config_of(self, spec: EncoderSpec) -> dict[str, Any]:
        attentions = [part(layer.attention, LocalGlobalSpec, ATTENTION) for layer in spec.stack.layers]
        windows = [2 * reach_of(attention.mask, ATTENTION) for attention in attentions]
        return {**super().config_of(spec), "attention_window": windows}

    def layer_rules(self, spec: ModelSpec, top: str) -> Rules:
        names = {f"attention.self.{name}_global": f"attention.body.global_{name[0]}" for name in ("query", "key", "value")}
        more: list[Rename] = list(renames(top + self.layer, "stack.blocks.{i}.", names))
        return [*super().layer_rules(spec, top), *more]

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
