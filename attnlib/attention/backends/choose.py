"""Which backend runs a call: the one asked for, else the first that can and suits. Static facts only."""

from __future__ import annotations

from torch import Tensor

from attnlib.attention.backends import chunked, flex, matmul, reference, sdpa, tiles, varlen
from attnlib.attention.backends.protocol import AttentionCall, Backend
from attnlib.errors import BackendError, nearest

__all__ = ["backend_named", "choose", "chunked", "flex", "matmul", "reference", "refusals", "sdpa", "tiles", "varlen"]


def backend_named(name: str) -> Backend:
    """The backend of that name, or an error with the names there are."""
    known = Backend.known()
    if not isinstance(name, str) or name not in known:
        raise BackendError("attention backend", f"{name!r} is unknown", f"must be auto or one of {', '.join(known)}",
                           nearest(str(name), known))  # fmt: skip
    return known[name]


def choose(q: Tensor, k: Tensor, v: Tensor, call: AttentionCall, asked: str = "auto") -> Backend:
    """The backend asked for, or a BackendError with its reason; for "auto" the first in order that can and suits."""
    if asked != "auto":
        backend = backend_named(asked)
        reason = backend.refuses(q, k, v, call)
        if reason is not None:
            able = [name for name, why in refusals(q, k, v, call).items() if why is None]
            raise BackendError(f"attention backend {asked!r}", reason, f"use auto or one of {', '.join(able)}")
        return backend
    for backend in _in_order():
        if backend.refuses(q, k, v, call) is None and backend.suits(q, k, v, call):
            return backend
    return backend_named("reference")


def refusals(q: Tensor, k: Tensor, v: Tensor, call: AttentionCall) -> dict[str, str | None]:
    """For every backend the reason why it refuses this call, None where it can."""
    return {name: backend.refuses(q, k, v, call) for name, backend in Backend.known().items()}


_order: tuple[int, list[Backend]] = (0, [])


def _in_order() -> list[Backend]:
    global _order
    known = Backend.known()
    if _order[0] != len(known):
        ranked = [b for b in known.values() if b.automatic is not None]
        _order = (len(known), sorted(ranked, key=lambda b: b.automatic or 0))
    return _order[1]
