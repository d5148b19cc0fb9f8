"""Values and types in a reader's words: what is there, and what was wished."""

from __future__ import annotations

import math
import re
import types
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from attnlib.spec.base import Spec, keys_of

_LEAVES = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
_BOUNDS = (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<="))
_NUMBER = re.compile(r"[-+]?[\d_,]*\.?[\d_]+([eE][-+]?\d+)?")


def shown(value: Any) -> str:
    """A value on one short line, as YAML would spell it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "a mapping" + (f" with {named(list(value)[:4])}" if value else "")
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, Spec):
        return f"a {type(value).__name__} spec"
    text = ascii(value) if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def named(names: Iterable[Any]) -> str:
    """`'a', 'b', 'c'`, cut after forty."""
    listed = [name if isinstance(name, str) else str(name) for name in names]
    return ", ".join(ascii(name) for name in listed[:40]) + (", ..." if len(listed) > 40 else "")


def one_of(names: Iterable[Any]) -> str:
    """`one of 'a', 'b'`, or the only one."""
    listed = list(names)
    return ("one of " if len(listed) > 1 else "") + (named(listed) or "nothing")


def members(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, or the annotation alone; `Annotated` members keep their constraints."""
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(member for arg in get_args(annotation) for member in members(arg))
    return (annotation,)


def bare(annotation: Any) -> Any:
    """An annotation without its `Annotated` constraints."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return annotation


def is_spec(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Spec)


def type_words(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """What a field of this type takes: `a whole number > 0`, `one of 'pre', 'post'`, `a norm: one of 'rms'`."""
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        found = [m for item in more for m in (item.metadata if isinstance(item, FieldInfo) else [item])]
        return type_words(inner, (*metadata, *found))
    args, origin = get_args(annotation), get_origin(annotation)
    if origin in (Union, types.UnionType):
        parts = members(annotation)
        return " or ".join(type_words(part, () if part is type(None) else metadata) for part in parts)
    if origin is Literal:
        return ("one of " if len(args) > 1 else "") + ", ".join(shown(arg) for arg in args)
    if origin is tuple:
        return _tuple_words(args) + _bounds(metadata, " long")
    if origin is dict:
        return f"a mapping, each value {type_words(args[1])}"
    if is_spec(annotation):
        return spec_words(annotation)
    words = _LEAVES.get(annotation, getattr(annotation, "__name__", "a value"))
    return words + _bounds(metadata, " long" if annotation is str else "")


def _tuple_words(args: tuple[Any, ...]) -> str:
    if len(args) == 2 and args[1] is Ellipsis:
        return f"a list, each {type_words(args[0])}"
    return f"a list of {len(args)}: " + "; ".join(type_words(arg) for arg in args)


def spec_words(cls: type[Spec]) -> str:
    """What a slot or a spec class takes."""
    if kinds := cls.kinds():
        name = cls.slot or cls.__name__
        return f"{'an' if name[0] in 'aeiou' else 'a'} {name}: {one_of(sorted(kinds))}"
    keys = keys_of(cls)
    return f"a mapping with {named(keys)}" if keys else "an empty mapping"


def _bounds(metadata: Iterable[Any], unit: str = "") -> str:
    found = []
    for m in metadata:
        found += [f"{sign} {getattr(m, name)}" for name, sign in _BOUNDS if getattr(m, name, None) is not None]
        if (low := getattr(m, "min_length", None)) is not None and low > 0:
            found.append(f">= {low}")
        if (high := getattr(m, "max_length", None)) is not None:
            found.append(f"<= {high}")
        if (step := getattr(m, "multiple_of", None)) is not None:
            found.append(f"a multiple of {step}")
        if (pattern := getattr(m, "pattern", None)) is not None:
            found.append(f"matching {pattern}")
    return (" " + " and ".join(found) + (unit if found else "")) if found else ""


def type_hint(value: Any, annotation: Any) -> str:
    """A way out of the usual mistakes of spelling a value, or an empty string."""
    wanted = {bare(member) for member in members(annotation)}
    numbers = bool(wanted & {int, float})
    if isinstance(value, str):
        if bool in wanted and value.lower() in ("yes", "no", "on", "off", "y", "n", "true", "false"):
            return f"write {'true' if value.lower() in ('yes', 'on', 'y', 'true') else 'false'}, without quotes"
        if numbers and _NUMBER.fullmatch(value.strip()):
            return f"write {re.sub('[_,]', '', value.strip())}, without quotes, underscores or commas"
        if type(None) in wanted and value.lower() in ("none", "nil"):
            return "write null"
    if isinstance(value, bool) and numbers:
        return "true and false are not numbers"
    if isinstance(value, float) and int in wanted and math.isfinite(value) and value.is_integer():
        return f"write {int(value)}"
    if isinstance(value, int | float) and not isinstance(value, bool) and wanted & {str}:
        return f"write '{value}', with quotes"
    lists = [get_args(kind)[0] for kind in wanted if get_origin(kind) is tuple]
    if any(_could_be(value, item) for item in lists):
        return f"write [{value if not isinstance(value, str) else ascii(value)[1:-1]}]"
    if isinstance(value, list | tuple) and len(value) == 1 and not lists:
        return "write it without the brackets or the dash"
    return ""


def _could_be(value: Any, item: Any) -> bool:
    """Whether a leaf may have been meant as the only item of a list."""
    if is_spec(bare(item)):
        return isinstance(value, str) and value in bare(item).kinds()
    return isinstance(value, str | int | float)
