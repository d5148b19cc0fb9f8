"""Specs: frozen descriptions of parts. A slot is a base class; a kind is a subclass that names itself in its class line.

    class Norm(Spec, slot="norm"): ...
    class RMS(Norm, kind="rms"): eps: float = 1e-6
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict


class Spec(BaseModel):
    """A frozen, hashable choice. Fields hold choices only; widths and tensors are given to `build`."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", defer_build=True)
    slot: ClassVar[str] = ""
    kind: ClassVar[str] = ""

    def __init_subclass__(cls, *, slot: str = "", kind: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.kind = kind
        if slot:
            cls.slot = slot

    def __hash__(self) -> int:
        cached = self.__dict__.get("_hash")
        if cached is None:
            cached = hash((type(self), *(getattr(self, name) for name in type(self).model_fields)))
            self.__dict__["_hash"] = cached
        return int(cached)

    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        state["__dict__"] = {k: v for k, v in state["__dict__"].items() if k != "_hash"}  # hashes differ between processes
        return state

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if type(self) is not type(other):
            return NotImplemented
        return all(getattr(self, n) == getattr(other, n) for n in type(self).model_fields)

    @classmethod
    def kinds(cls) -> dict[str, type[Self]]:
        """Every kind below this slot, those of user modules included, by name."""
        found: dict[str, type[Self]] = {}
        for sub in cls.__subclasses__():
            if sub.kind:
                found[sub.kind] = sub
            found.update(sub.kinds())
        return found
