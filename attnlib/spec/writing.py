"""From specs back to trees of plain values: `read(type(s), write(s)) == s`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attnlib.spec.base import Spec, keys_of


def write(spec: Spec, *, full: bool = False) -> dict[str, Any]:
    """The tree that `read` takes back: kinds named, tuples as lists, and defaults left out unless `full`."""
    tree: dict[str, Any] = {"kind": spec.kind} if spec.kind else {}
    for key, (name, field) in keys_of(type(spec)).items():
        value = getattr(spec, name)
        if full or field.is_required() or not _same(value, field.get_default(call_default_factory=True)):
            tree[key] = plain(value, full=full)
    return tree


def plain(value: Any, *, full: bool = False) -> Any:
    """A field's value as plain lists, dicts and leaves."""
    if isinstance(value, Spec):
        return write(value, full=full)
    if isinstance(value, tuple | list):
        return [plain(item, full=full) for item in value]
    if isinstance(value, Mapping):
        return {key: plain(item, full=full) for key, item in value.items()}
    return value


def _same(a: Any, b: Any) -> bool:
    """Equal and of one type: 1, 1.0 and true are equal in Python but different choices."""
    if type(a) is not type(b):
        return False
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)
