"""Pydantic's errors in attnlib's words: place, fact, wish, hint."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from attnlib.errors import AttnlibError, nearest
from attnlib.spec.base import Spec, keys_of
from attnlib.spec.places import FieldError, Place, PlacedError, split_path
from attnlib.spec.words import bare, is_spec, members, named, shown, type_hint, type_words


def faults_of(cls: type[Spec], values: Mapping[str, Any], error: ValidationError, root: str = "") -> list[PlacedError]:
    """One error a faulty place of a spec; `values` are what its constructor was given, by attribute name."""
    fields = {spelled: (key, field) for key, (name, field) in keys_of(cls).items() for spelled in (name, key)}
    found: dict[Place, PlacedError] = {}
    for item in error.errors(include_url=False):
        made = _fault(cls, fields, values, item, root)
        found.setdefault(made.place, made)
    return list(found.values())


def _fault(
    cls: type[Spec], fields: dict[str, tuple[str, FieldInfo]], values: Mapping[str, Any], item: Any, root: str
) -> PlacedError:
    if item["type"] in ("value_error", "assertion_error"):
        return _raised(fields, item, root)
    name = str(item["loc"][0]) if item["loc"] else ""
    if name not in fields:
        return unknown_field((name,), cls, root=root)
    key, field = fields[name]
    annotation: Any = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    if item["type"] == "missing" and len(item["loc"]) == 1:
        return PlacedError((key,), "missing", f"wish {type_words(annotation)}", field.description or "", root=root)
    given = values[name] if name in values else values[next(n for n in fields if fields[n][0] == key and n in values)]
    if item["loc"][-1] == "[key]":
        return PlacedError((key,), f"the key {shown(item['loc'][-2])}", "wish text as a key", root=root)
    place, value, annotation = _descend(item["loc"][1:], given, annotation)
    fact = shown(value)
    if item["type"] in ("too_short", "too_long") and isinstance(value, Mapping):
        fact = f"a mapping of {len(value)}"
    hint = type_hint(value, annotation) or near_name(value, annotation) or field.description or ""
    return PlacedError((key, *place), fact, f"wish {type_words(annotation)}", hint, root=root)


def unknown_field(place: Place, cls: type[Spec], slot: type[Spec] | None = None, root: str = "") -> PlacedError:
    """The error of a key that `cls` does not have; `slot`'s other kinds are asked whether it is theirs."""
    name, keys = str(place[-1]), keys_of(cls)
    kinds = slot.kinds() if slot else {}
    owners = [kind for kind, other in kinds.items() if other is not cls and name in keys_of(other)]
    fact = "unknown field" + (f" of kind {cls.kind!r}" if cls.kind else "")
    hint = f"belongs to kind {named(sorted(owners))}" if owners else nearest(name, [*keys, *(["kind"] if kinds else [])])
    return PlacedError(place, fact, f"wish one of {named(keys)}" if keys else "wish no fields", hint, root=root)


def _raised(fields: dict[str, tuple[str, FieldInfo]], item: Any, root: str) -> PlacedError:
    """An error that a validator raised: on the field it names, else on the whole spec."""
    error, loc = item["ctx"]["error"], item["loc"]
    at: Place = (fields[str(loc[0])][0], *loc[1:]) if loc and str(loc[0]) in fields else loc
    if isinstance(error, FieldError):
        made = PlacedError(at or split_path(error.field), error.fact, error.wish, error.hint, root=root)
    elif isinstance(error, AttnlibError):
        made = PlacedError(at or _named_field(error.path, fields), error.fact, error.wish, error.hint, root=root)
    else:
        text = " ".join(str(error).split()) or "does not fit"
        at = at or _named_field(text, fields)
        made = PlacedError(at, text.removeprefix(f"{at[0]}: " if at else ""), root=root)
    made.whole = not loc
    return made


def _named_field(text: str, fields: dict[str, tuple[str, FieldInfo]]) -> Place:
    for word in re.findall(r"\w+", text):
        for name, (key, _) in fields.items():
            if word in (name, key):
                return (key,)
    return ()


def _descend(loc: Place, value: Any, annotation: Any) -> tuple[Place, Any, Any]:
    """Follows the steps of pydantic's location that lead into lists and mappings; others name members of unions."""
    place: list[str | int] = []
    for step in loc:
        inner = _item(annotation, step)
        in_list = isinstance(step, int) and isinstance(value, list | tuple) and step < len(value)
        if not in_list and not (isinstance(value, Mapping) and step in value):
            continue
        value = value[step]
        place.append(step)
        annotation = inner
    return tuple(place), value, annotation


def _item(annotation: Any, step: str | int) -> Any:
    for member in map(bare, members(bare(annotation))):
        args = get_args(member)
        if get_origin(member) is tuple and isinstance(step, int):
            return args[0] if args[-1] is Ellipsis else args[min(step, len(args) - 1)]
        if get_origin(member) is dict and isinstance(step, str):
            return args[1]
    return Any


def near_name(value: Any, annotation: Any) -> str:
    """A did-you-mean among the literals and kinds that an annotation names."""
    if not isinstance(value, str):
        return ""
    known: list[str] = []
    for member in map(bare, members(bare(annotation))):
        if get_origin(member) is Literal:
            known += [arg for arg in get_args(member) if isinstance(arg, str)]
        elif is_spec(member):
            known += list(member.kinds())
    return nearest(value, known)
