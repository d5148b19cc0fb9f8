"""Parts of a spec that a family's config can say, or a refusal that names the part."""

from __future__ import annotations

from typing import TypeVar

from attnlib.errors import CheckpointError
from attnlib.spec import Spec

S = TypeVar("S", bound=Spec)


def part(value: Spec | None, wanted: type[S], where: str) -> S:
    """`value`, if it is of the wanted class; `where` is its dotted name in the model's config."""
    if isinstance(value, wanted):
        return value
    fact = "is missing" if value is None else f"is of kind {value.kind!r}"
    raise CheckpointError(where, fact, f"wish {wanted.kind or where.rpartition('.')[2]}")
