"""What decoder families share: heads that read a causal stream, windows, layers of several kinds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attnlib.attention.masks import Causal, Mask, Window, terms
from attnlib.attention.softmax import SoftmaxAttentionSpec
from attnlib.errors import CheckpointError
from attnlib.models.block import BlockSpec
from attnlib.models.decoder import DecoderSpec
from attnlib.models.heads import ClassifyHeadSpec, HeadSpec, LMHeadSpec, NoHeadSpec, SpanHeadSpec, TagHeadSpec
from attnlib.models.spec import ModelSpec
from attnlib.models.stack import StackSpec
from attnlib.nn.norms import Norm
from attnlib.pretrained.family import HFConfig
from attnlib.pretrained.labels import labels_from, problem_from
from attnlib.pretrained.rules import Alias

FULL, SLIDING = "full_attention", "sliding_attention"


def head_from(config: HFConfig, kind: str, lm: LMHeadSpec) -> HeadSpec:
    """The head of a causal model: `lm`, or labels read at the last real token, at each token, or spans."""
    match kind:
        case "lm":
            return lm
        case "classify":
            found = {**labels_from(config), "problem": problem_from(config)}
            return ClassifyHeadSpec(**found, pooling="last", hidden=False, bias=False)
        case "tag":
            dropout = config.get("classifier_dropout", float, config.get("hidden_dropout", float, 0.1))
            return TagHeadSpec(**labels_from(config), dropout=dropout)
        case "span":
            return SpanHeadSpec()
    return NoHeadSpec()


def causal(window: int | None = None) -> Mask:
    """The triangle, or its band of `window` tokens that counts the query itself, as configs do."""
    return Causal() if window is None else Causal() & Window(before=window - 1)


def window_of(mask: Mask) -> int | None:
    """The `window` of a mask that `causal` makes; None of any other."""
    before = terms(mask).before
    return None if before is None else before + 1


def sliding(config: HFConfig, window: int | None) -> Mask:
    """The mask of a layer that slides."""
    if window is None or window < 1:
        raise CheckpointError(f"{config.where}: sliding_window", f"is {window}", "wish at least 1, since layers slide")
    return causal(window)


def kinds_from(config: HFConfig, otherwise: Sequence[str]) -> tuple[str, ...]:
    """`layer_types`, a kind a layer; where the config has none, `otherwise`."""
    given = config.get("layer_types", list, list(otherwise))
    if odd := [kind for kind in given if kind not in (FULL, SLIDING)]:
        raise CheckpointError(f"{config.where}: layer_types", f"names {str(odd[0])[:80]!r}", f"wish {FULL} or {SLIDING}")
    if len(given) != len(otherwise):
        raise CheckpointError(f"{config.where}: layer_types", f"names {len(given)} layers", f"wish {len(otherwise)}")
    return tuple(given)


def layered(kinds: Sequence[str], blocks: Mapping[str, BlockSpec], final_norm: Norm) -> StackSpec:
    """A stack of a block a kind: one block where all are alike, else the shortest pattern that repeats."""
    if len(set(kinds)) == 1:
        return StackSpec(num_layers=len(kinds), block=blocks[kinds[0]], final_norm=final_norm)
    period = next(p for p in range(1, len(kinds) + 1) if all(kinds[i] == kinds[i % p] for i in range(len(kinds))))
    used = {kind: blocks[kind] for kind in dict.fromkeys(kinds)}
    return StackSpec(num_layers=len(kinds), blocks=used, pattern=tuple(kinds[:period]), final_norm=final_norm)


def decoder_of(spec: ModelSpec) -> DecoderSpec:
    """The spec, if it is a decoder's."""
    if not isinstance(spec, DecoderSpec):
        raise CheckpointError("model", f"is of kind {spec.kind!r}", "wish a decoder")
    return spec


def attentions_of(spec: ModelSpec) -> tuple[SoftmaxAttentionSpec, ...]:
    """The softmax attention of every layer of a decoder; refuses other models."""
    found = [block.attention for block in decoder_of(spec).stack.layers]
    if odd := next((a for a in found if not isinstance(a, SoftmaxAttentionSpec)), None):
        raise CheckpointError("model.stack.block.attention", f"is of kind {odd.kind!r}", "wish softmax")
    return tuple(a for a in found if isinstance(a, SoftmaxAttentionSpec))


def window_config(attentions: Sequence[SoftmaxAttentionSpec]) -> dict[str, Any]:
    """`layer_types` and `sliding_window` of a config with these layers."""
    windows = [window_of(attention.mask) for attention in attentions]
    kinds = [FULL if window is None else SLIDING for window in windows]
    return {"layer_types": kinds, "sliding_window": next((w for w in windows if w is not None), None)}


def prefixes(wanted: str, others: Sequence[str], names: Sequence[str]) -> list[Alias]:
    """Files of other classes name the same tensors under other prefixes."""
    return [Alias(f"{other}{name}", f"{wanted}{name}") for other in others if other != wanted for name in names]
