"""The weights of a model that has lost heads and hidden units."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from attnlib.attention.biases import T5Relative
from attnlib.attention.disentangled import Disentangled
from attnlib.attention.softmax import SoftmaxAttention
from attnlib.inspect.pruned_spec import Kept
from attnlib.inspect.sites import stacks
from attnlib.models.block import Block


def bodies(model: Any) -> Iterator[tuple[str, Any]]:
    """Attentions and feed-forwards by place."""
    for name, stack in stacks(model).items():
        for number, block in enumerate(stack.blocks):
            assert isinstance(block, Block)
            for part, place in (("attention", "self"), ("cross", "cross"), ("mlp", "mlp")):
                if (sublayer := getattr(block, part)) is not None:
                    yield f"{name}.{number}.{place}", sublayer.body


def tensors_without(model: Any, kept: Kept) -> dict[str, Tensor]:
    """The tensors of the smaller model by name."""
    tensors: dict[str, Tensor] = dict(model.state_dict(keep_vars=True))
    names = {id(module): name for name, module in model.named_modules()}
    for path, body in bodies(model):
        if path in kept.heads:
            _cut_heads(tensors, f"{names[id(body)]}.", body, kept.heads[path], kept.groups[path])
        if path in kept.units:
            units = torch.tensor(kept.units[path])
            for part in ("gate", "up"):
                _take(tensors, f"{names[id(body)]}.{part}", units, 0)
            _take(tensors, f"{names[id(body)]}.down.weight", units, 1)
    for name, stack in stacks(model).items():
        lost = any(f"{name}.{number}.self" in kept.heads for number in range(len(stack.blocks)))
        if isinstance(stack.bias, T5Relative) and lost:
            table = tensors.pop(f"{names[id(stack)]}.bias.table")
            for number, block in enumerate(stack.blocks):  # from here on each layer has its own
                heads = kept.heads.get(f"{name}.{number}.self", range(table.shape[1]))
                place = f"{names[id(block.attention.body)]}.rule.terms.0.table"  # type: ignore[union-attr]
                tensors[place] = _rows(table, torch.tensor(list(heads)), 1)
    return tensors


def _cut_heads(
    tensors: dict[str, Tensor], name: str, body: SoftmaxAttention, heads: Sequence[int], groups: Sequence[int]
) -> None:
    columns, shared = (
        torch.cat([torch.arange(i * body.d_head, (i + 1) * body.d_head) for i in some]) for some in (heads, groups)
    )
    for part, index in (("q", columns), ("k", shared), ("v", shared)):
        _take(tensors, name + part, index, 0)
    _take(tensors, f"{name}out.weight", columns, 1)
    _take(tensors, f"{name}rule.normaliser.sink", torch.tensor(heads), 0)
    for number, term in enumerate(body.rule.terms):
        place = f"{name}rule.terms.{number}."
        if isinstance(term, T5Relative):
            _take(tensors, f"{place}table", torch.tensor(heads), 1)
        if isinstance(term, Disentangled):
            _take(tensors, f"{place}q", columns, 0)
            _take(tensors, f"{place}k", columns, 0)


def _take(tensors: dict[str, Tensor], name: str, index: Tensor, dim: int) -> None:
    """Some rows of a tensor, or of a projection's weight and bias; nothing where it is not there."""
    for whole in (name, f"{name}.weight", f"{name}.bias"):
        if whole in tensors:
            tensors[whole] = _rows(tensors[whole], index, dim)


def _rows(tensor: Tensor, index: Tensor, dim: int) -> Tensor:
    return tensor.detach().index_select(dim, index.to(tensor.device)).requires_grad_(tensor.requires_grad)
