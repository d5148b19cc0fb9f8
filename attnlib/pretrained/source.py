"""Where tensors come from, seen from what reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from attnlib.pretrained.header import Fact


class Source(Protocol):
    """Tensors whose names, shapes and dtypes are known before one is read."""

    @property
    def facts(self) -> Mapping[str, Fact]: ...
    def read(self, name: str) -> Tensor: ...
    def release(self, name: str) -> None: ...


class InMemory:
    """A Source over tensors that are at hand already."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors
        self.facts = {name: Fact(tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}

    def read(self, name: str) -> Tensor:
        return self._tensors[name]

    def release(self, name: str) -> None:
        """Nothing to give back."""
