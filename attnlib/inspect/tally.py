"""A tally of operations: FLOPs by module, and bytes that live at once."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from torch.utils.module_tracker import ModuleTracker
from torch.utils.weak import WeakIdKeyDictionary

from attnlib.errors import UsageError


def _triangular(a: Tensor, b: Tensor, *_: object, **__: object) -> int:
    """A system [.., n, n] solved for [.., n, m] by substitution: n (n - 1) m."""
    return b.numel() * (a.shape[-1] - 1)


def _dot(a: Tensor, *_: object, **__: object) -> int:
    return 2 * a.numel()


# operation -> FLOPs of its arguments, where torch's own counter has none; may be added to
FORMULAS: dict[Any, Callable[..., int]] = {
    torch.ops.aten.linalg_solve_triangular: _triangular,
    torch.ops.aten.mv: _dot,
    torch.ops.aten.dot: _dot,
}
_WORK = ("linalg_", "_linalg_", "_fft", "cdist", "_cdist", "cholesky", "lu_", "triangular_solve", "addmv", "addr", "ger",
         "_scaled_dot", "_flash", "_efficient", "_thnn", "mkldnn_", "mkldnn_rnn", "_int_mm", "segment_mm", "_grouped_mm",
         "addbmm", "vdot")  # fmt: skip
_LIGHT = ("linalg_vector_norm",)


class Tally(TorchDispatchMode):
    """FLOPs by module, and bytes of the tensors alive."""

    def __init__(self, there: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self.paused = False
        self.modules: Any = ModuleTracker()
        self.flops: Counter[str] = Counter()
        self._seen = WeakIdKeyDictionary()
        for tensor in there:
            self._seen[tensor.untyped_storage()] = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        packet = func._overloadpacket
        out = func(*args, **given)
        formula = FORMULAS.get(packet) or flop_registry.get(packet)
        if formula is not None:
            self.add(formula(*args, **given, out_val=out))
        elif _uncounted(func):
            raise UsageError(str(packet), "has no count of FLOPs", "wish operations that torch counts, or a formula",
                             "attnlib.inspect.tally.FORMULAS")  # fmt: skip
        if not self.paused:
            torch.utils._pytree.tree_map_only(Tensor, self.note, out)
        return out

    def add(self, flops: int) -> None:
        """FLOPs of the modules that are at work."""
        self.flops.update(dict.fromkeys(self.modules.parents, flops))

    def note(self, tensor: Tensor) -> None:
        """A tensor that was made, or a view."""
        storage = tensor.untyped_storage()
        if storage in self._seen:
            return
        self._seen[storage] = True
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, size).atexit = False

    def _gone(self, size: int) -> None:
        self.now -= size

    @contextmanager
    def aside(self) -> Iterator[None]:
        """While open, what is made takes no memory: it is there for its count of FLOPs, or not there in a real run."""
        was, self.paused = self.paused, True
        try:
            yield
        finally:
            self.paused = was


def _uncounted(func: Any) -> bool:
    namespace, _, name = func._schema.name.partition("::")
    if namespace not in ("aten", "prim", "prims"):
        return namespace != "c10d" and "profiler" not in namespace
    return name.startswith(_WORK) and not name.startswith(_LIGHT)
