"""The spec of a model that has lost heads and hidden units: layers that differ, as `blocks` in a `pattern`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from attnlib.attention.biases import T5RelativeSpec
from attnlib.attention.softmax import MixerSpec, SoftmaxAttentionSpec
from attnlib.errors import UsageError
from attnlib.models.block import BlockSpec
from attnlib.models.spec import ModelSpec
from attnlib.models.stack import StackSpec
from attnlib.nn.feed_forward import DenseSpec, GatedSpec


@dataclass
class Kept:
    """What stays, by place: heads ("decoder.0.self"), groups of keys and values, hidden units ("decoder.0.mlp")."""

    heads: dict[str, tuple[int, ...]] = field(default_factory=dict)
    groups: dict[str, tuple[int, ...]] = field(default_factory=dict)
    units: dict[str, tuple[int, ...]] = field(default_factory=dict)


def spec_without(spec: ModelSpec, kept: Kept) -> ModelSpec:
    """The spec whose layers have only what is kept."""
    changed: dict[str, Any] = {}
    for name in type(spec).model_fields:
        stack = getattr(spec, name)
        if isinstance(stack, StackSpec):
            path = spec.kind if name == "stack" else name
            changed[name] = _stack(stack, path, spec.d_model, kept)
    return spec.replace(**changed)


def _stack(stack: StackSpec, path: str, d_model: int, kept: Kept) -> StackSpec:
    layers = [_block(block, f"{path}.{number}", d_model, kept) for number, block in enumerate(stack.layers)]
    words = {n: getattr(stack, n) for n in stack.model_fields_set if n not in ("block", "blocks", "pattern")}
    if stack.bias is not None and any(f"{path}.{number}.self" in kept.heads for number in range(len(layers))):
        layers, words["bias"] = _own_terms(layers, stack.bias, path)
    names: dict[BlockSpec, str] = {}
    for number, block in enumerate(layers):
        names.setdefault(block, f"from_{number}")
    if len(names) == 1:
        return StackSpec(**words, block=layers[0])
    return StackSpec(**words, blocks={n: b for b, n in names.items()}, pattern=tuple(names[block] for block in layers))


def _block(block: BlockSpec, path: str, d_model: int, kept: Kept) -> BlockSpec:
    changed: dict[str, Any] = {}
    for name, place in (("attention", "self"), ("cross", "cross")):
        if f"{path}.{place}" in kept.heads:
            heads, groups = kept.heads[f"{path}.{place}"], kept.groups[f"{path}.{place}"]
            changed[name] = _attention(getattr(block, name), len(heads), len(groups), d_model)
    if f"{path}.mlp" in kept.units:
        assert isinstance(block.mlp, DenseSpec | GatedSpec)
        changed["mlp"] = block.mlp.replace(d_ff=len(kept.units[f"{path}.mlp"]))
    return block.replace(**changed) if changed else block


def _attention(spec: MixerSpec, heads: int, groups: int, d_model: int) -> MixerSpec:
    assert isinstance(spec, SoftmaxAttentionSpec)
    width = spec.d_head or d_model // spec.num_heads
    grouped = {} if spec.num_kv_heads is None else {"num_kv_heads": groups}
    return spec.replace(num_heads=heads, d_head=width, **grouped)


def _own_terms(layers: list[BlockSpec], bias: Any, path: str) -> tuple[list[BlockSpec], Any]:
    """A bias by the head that a stack shared, as a term of each layer: they no longer have the same heads."""
    if not bias.by_head:
        return layers, bias
    if not isinstance(bias, T5RelativeSpec):
        raise UsageError(path, f"its bias {bias.kind!r} goes by the number of heads", "which pruning changes")
    found = []
    for block in layers:
        assert isinstance(block.attention, SoftmaxAttentionSpec)
        if block.attention.term is not None:
            raise UsageError(path, "a layer has a term beside the stack's bias", "a layer without shared bias has one")
        found.append(block.replace(attention=block.attention.replace(term=bias)))
    return found, None
