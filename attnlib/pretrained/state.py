"""A model's tensors by name, each once however many names it has: looked at, given, taken."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from attnlib.pretrained.header import Fact
from attnlib.pretrained.source import Source
from attnlib.pretrained.table import Made, Plan
from attnlib.pretrained.tensors import copy_by_slabs


def bare(model: nn.Module) -> Any:
    """The model inside torch.compile's or a data-parallel wrapper."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and type(model).__name__ in ("DistributedDataParallel", "DataParallel"):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def names_of(model: nn.Module) -> dict[str, list[str]]:
    """Each saved tensor's first name -> all its names; a tied parameter has several."""
    first: dict[int, str] = {}
    names: dict[str, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        names.setdefault(first.setdefault(id(tensor), name), []).append(name)
    return names


def facts_of(model: nn.Module) -> dict[str, Fact]:
    """Names, dtypes and shapes that a checkpoint of this model has."""
    state = model.state_dict(keep_vars=True)
    return {name: Fact(state[name].dtype, tuple(state[name].shape)) for name in names_of(model)}


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """The tensors that a checkpoint of this model has, each once."""
    state = model.state_dict()
    return {name: state[name] for name in names_of(model)}


def give(
    model: nn.Module, plan: Plan, source: Source, *, device: str | torch.device, dtype: torch.dtype | None,
    fresh: Mapping[str, Tensor] | None = None,
) -> nn.Module:  # fmt: skip
    """Turn a model of the meta device into a real one; the plan has compared names and shapes before.

    A tensor that needs no change stays memory-mapped; others are copied a few MB at a time into their final place.
    `fresh` are the tensors that no file gives.
    """
    names, state = names_of(model), model.state_dict(keep_vars=True)
    found: dict[str, Tensor] = {}
    target = torch.device(device)
    begun = (Made(name, tensor, _keep) for name, tensor in (fresh or {}).items())
    for name, tensor, release in chain(plan.run(source), begun):
        kind = dtype if dtype is not None and tensor.dtype.is_floating_point else tensor.dtype
        if target.type == "cpu" and kind == tensor.dtype and tensor.is_contiguous():
            final = tensor
        else:
            final = copy_by_slabs(torch.empty(tensor.shape, dtype=kind, device=target), tensor, release)
        old = state[name]
        if isinstance(old, nn.Parameter):
            final = nn.Parameter(final, requires_grad=old.requires_grad)
        found.update(dict.fromkeys(names[name], final))
    model.load_state_dict(found, strict=True, assign=True)
    _recompute(model, target)
    return model


def _keep() -> None:
    """What was read from nowhere has nothing to let go of."""


def take(model: nn.Module, plan: Plan, source: Source) -> None:
    """Copy a checkpoint into the tensors that a model has already."""
    state = tensors_of(model)
    with torch.no_grad():
        for name, tensor, release in plan.run(source):
            copy_by_slabs(state[name], tensor, release)


def _recompute(model: nn.Module, device: torch.device) -> None:
    """Tensors that no checkpoint holds are computed by the modules that have them: `reset_buffers(device)`."""
    for path, module in model.named_modules():
        lost = [name for name, tensor in module.named_buffers(recurse=False) if tensor.is_meta]
        if lost:
            reset = getattr(module, "reset_buffers", None)
            if not callable(reset):
                kind = type(module).__name__
                raise TypeError(f"{path}.{lost[0]}: a buffer that is not saved needs {kind}.reset_buffers")
            reset(device)
