"""Specs: frozen descriptions of parts. A slot is a base class; a kind is a subclass, named in its class line.

class Norm(Spec, slot="norm", default="layer"): ...
class RMS(Norm, kind="rms"): eps: float = Field(1e-6, gt=0)
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from attnlib.spec.places import SpecErrors

_BUILDING = threading.RLock()


class Spec(BaseModel):
    """A frozen, hashable choice. Fields hold choices only; widths and tensors are given to `build`.

    Fields are numbers, bools, text, Literals, other specs, and tuples, dicts with text keys and unions of those.
    A field whose YAML key is a Python keyword ends in an underscore: `from_` is written `from`; an alias is a key too.
    Raises SpecErrors, each naming its field, when a value does not fit.
    """

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", defer_build=True, allow_inf_nan=False, validate_by_name=True
    )
    __slots__ = ("_hash",)  # outside __dict__, so that copies with other values do not inherit it
    slot: ClassVar[str] = ""
    kind: ClassVar[str] = ""
    default_kind: ClassVar[str] = ""

    def __init_subclass__(cls, *, slot: str = "", kind: str = "", default: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.kind = kind
        cls.default_kind = default
        if slot:
            cls.slot = slot

    def __init__(self, /, **values: Any) -> None:
        complete(type(self))
        try:
            super().__init__(**{name: _frozen(value) for name, value in values.items()})
        except ValidationError as error:
            from attnlib.spec.faults import faults_of

            raise SpecErrors(faults_of(type(self), values, error, root=type(self).__name__)) from None

    def __hash__(self) -> int:
        try:
            return int(object.__getattribute__(self, "_hash"))
        except AttributeError:
            cls = type(self)
            made = hash((cls, *(_hashable(getattr(self, name)) for name in cls.model_fields)))
            object.__setattr__(self, "_hash", made)
            return made

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if type(self) is not type(other):
            return NotImplemented
        return all(getattr(self, n) == getattr(other, n) for n in type(self).model_fields)

    @classmethod
    def kinds(cls) -> dict[str, type[Self]]:
        """Every kind below this slot, those of user modules included, by name; of two with one name the later."""
        found: dict[str, type[Self]] = {}
        for sub in cls.__subclasses__():
            if sub.kind:
                found[sub.kind] = sub
            found.update(sub.kinds())
        return found

    @classmethod
    def short(cls, tree: Any) -> Any:
        """The long form of a shorthand that is no mapping, such as a list of masks; others are returned as is."""
        return tree

    @classmethod
    def short_forms(cls) -> tuple[Any, ...]:
        """The types that `short` takes, for the JSON Schema: `(int, tuple[Mask, ...])`."""
        return ()

    def replace(self, **changes: Any) -> Self:
        """A checked copy with other values."""
        return type(self)(**{name: getattr(self, name) for name in self.model_fields_set} | changes)


def complete(cls: type[Spec]) -> type[Spec]:
    """Resolves forward references and builds the validator, once, whichever thread comes first."""
    if not cls.__pydantic_complete__:
        with _BUILDING:
            cls.model_rebuild()
    return cls


def keys_of(cls: type[Spec]) -> dict[str, tuple[str, FieldInfo]]:
    """The YAML keys of a spec class, each with its attribute's name and field."""
    fields = complete(cls).model_fields
    return {field.alias or name.removesuffix("_"): (name, field) for name, field in fields.items()}


def _frozen(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(map(_frozen, value))
    return value


def _hashable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return frozenset((key, _hashable(item)) for key, item in value.items())
    return tuple(map(_hashable, value)) if isinstance(value, tuple) else value
