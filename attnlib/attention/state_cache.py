"""The cache of a recurrence: named tensors of a size that does not grow."""

from __future__ import annotations

from torch import Tensor


class StateCache:
    """What earlier tokens left, [B, ...] each: replaced by every forward, never written in place."""

    def __init__(self) -> None:
        self.held: dict[str, Tensor] = {}

    def select(self, rows: Tensor) -> None:
        self.held = {name: tensor.index_select(0, rows) for name, tensor in self.held.items()}

    def save(self) -> object:
        return dict(self.held)

    def restore(self, saved: object) -> None:
        assert isinstance(saved, dict)
        self.held = dict(saved)

    def detach(self) -> None:
        """Gradients of what comes later stop at what is held."""
        self.held = {name: tensor.detach() for name, tensor in self.held.items()}

    def nbytes(self) -> int:
        """Bytes of the state."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.held.values())
