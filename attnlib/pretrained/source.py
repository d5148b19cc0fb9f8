"""Where tensors come from, seen from what reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from torch import Tensor

from attnlib.pretrained.header import Fact


class Source(Protocol):
    """Tensors whose names, shapes and dtypes are known before one is read."""

    @property
    def facts(self) -> Mapping[str, Fact]: ...
    def read(self, name: str) -> Tensor: ...
    def release(self, name: str) -> None: ...


def unfinite(source: Source, names: Iterable[str]) -> dict[str, str]:
    """Which of the tensors hold NaN or infinities, and how many of each."""
    found = {}
    for name in names:
        if source.facts[name].dtype.is_floating_point:
            if words := _unfinite(source.read(name)):
                found[name] = words
            source.release(name)
    return found


def _unfinite(tensor: Tensor) -> str:
    if not tensor.numel():
        return ""
    tensor = tensor if tensor.dtype.itemsize > 1 else tensor.float()  # what has 8 bits knows no order
    if all(bool(end.isfinite()) for end in tensor.aminmax()):
        return ""
    counts = {"NaN": int(tensor.isnan().sum()), "infinite": int(tensor.isinf().sum())}
    return ", ".join(f"{number:,} {kind}" for kind, number in counts.items() if number) + f" of {tensor.numel():,}"


class InMemory:
    """A Source over tensors that are at hand already."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors
        self.facts = {name: Fact(tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}

    def read(self, name: str) -> Tensor:
        return self._tensors[name]

    def release(self, name: str) -> None:
        """Nothing to give back."""
