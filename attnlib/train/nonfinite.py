"""Where a number that is not finite comes from: the batch is run again with eyes on every module."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def culprit(model: nn.Module, loss: Callable[[], Tensor]) -> str:
    """What is first not finite when `loss` is computed again: a parameter, an output, the loss or a gradient, by name.

    Outputs of -inf alone count as finite: scores and logits may exclude a token.
    """
    for name, parameter in model.named_parameters():
        if not bool(parameter.isfinite().all()):
            return f"parameter {name} is not finite"
    outputs: list[str] = []
    gradients: list[str] = []
    named = [(name or type(model).__name__, module) for name, module in model.named_modules()]
    handles = [module.register_forward_hook(_watching(name, outputs)) for name, module in named]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            handles.append(parameter.register_post_accumulate_grad_hook(_looking(name, gradients)))
    try:
        with torch.compiler.set_stance("force_eager"):
            value = loss()
            if outputs:
                return f"the output of {outputs[0]} is not finite"
            if not bool(value.isfinite()):
                return "the loss is not finite, and every output of the model is"
            value.backward()
    finally:
        for handle in handles:
            handle.remove()
    return f"the gradient of {gradients[0]} is not finite" if gradients else "not so when the batch is run again"


def _watching(name: str, found: list[str]) -> Callable[[nn.Module, Any, Any], None]:
    def watch(module: nn.Module, given: Any, output: Any) -> None:
        if not found and any(_bad(tensor) for tensor in _tensors(output)):
            found.append(name)

    return watch


def _looking(name: str, found: list[str]) -> Callable[[Tensor], None]:
    def look(parameter: Tensor) -> None:
        if not found and parameter.grad is not None and not bool(parameter.grad.isfinite().all()):
            found.append(name)

    return look


def _bad(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and bool((tensor.isnan() | tensor.isposinf()).any())


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _tensors(getattr(value, field.name))
