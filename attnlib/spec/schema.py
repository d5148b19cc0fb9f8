"""The JSON Schema of a spec class and everything below it, from the kinds that are defined now."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from attnlib.spec.base import Spec, keys_of
from attnlib.spec.words import bare, is_spec, members
from attnlib.spec.writing import plain

Schema = dict[str, Any]


def json_schema(spec: type[Spec]) -> Schema:
    """A draft 2020-12 schema of the YAML that `read(spec, ...)` takes, for editors: slots as `oneOf` their kinds."""
    writer = _Writer()
    top = writer.reference(spec)
    definitions = dict(sorted(writer.definitions.items()))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **top, "$defs": definitions}


class _Writer:
    def __init__(self) -> None:
        self.definitions: dict[str, Schema] = {}
        self.names: dict[type[Spec], str] = {}

    def reference(self, spec: type[Spec]) -> Schema:
        if spec not in self.names:
            name = spec.slot if spec.slot and "slot" in vars(spec) else spec.__name__
            taken = set(self.names.values())
            while name in taken:
                name += "_"
            self.names[spec] = name
            self.definitions[name] = {}  # holds the place while recursion comes by
            self.definitions[name] = self.slot(spec) if spec.kinds() else self.one(spec, named=False)
        return {"$ref": f"#/$defs/{self.names[spec]}"}

    def slot(self, slot: type[Spec]) -> Schema:
        kinds = {**({slot.kind: slot} if slot.kind else {}), **slot.kinds()}
        default = slot.default_kind or slot.kind
        options = [self.one(cls, named=name != default) for name, cls in sorted(kinds.items())]
        complete = [name for name, cls in sorted(kinds.items()) if not _required(cls)]
        if complete:
            options.append({"enum": complete})
        options += [self.type(form) for form in slot.short_forms()]
        return {**_described(slot), "oneOf": options}

    def one(self, cls: type[Spec], *, named: bool) -> Schema:
        """The mapping form of one class; `named` says that `kind` may not be left out."""
        keys = keys_of(cls)
        properties = {"kind": {"const": cls.kind}} if cls.kind else {}
        properties |= {key: self.field(field) for key, (_, field) in keys.items()}
        required = (["kind"] if named and cls.kind else []) + _required(cls)
        found: Schema = {**_described(cls), "type": "object", "properties": properties, "additionalProperties": False}
        return {**found, **({"required": required} if required else {})}

    def field(self, field: FieldInfo) -> Schema:
        annotation: Any = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
        found = self.type(annotation)
        if field.description:
            found = {**found, "description": field.description}
        if not field.is_required():
            found = {**found, "default": plain(field.get_default(call_default_factory=True))}
        return found

    def type(self, annotation: Any) -> Schema:
        if not _holds_specs(annotation):
            return _leaf(annotation)
        inner = bare(annotation)
        options = members(inner)
        if len(options) > 1:
            return {"anyOf": [self.type(option) for option in options]}
        if is_spec(inner):
            return self.reference(inner)
        args = get_args(inner)
        if get_origin(inner) is dict:
            return {"type": "object", "additionalProperties": self.type(args[1])}
        limits = {name: v for m in getattr(annotation, "__metadata__", ()) for name, v in _lengths(m)}
        if args[-1] is Ellipsis:
            return {"type": "array", "items": self.type(args[0]), **limits}
        count = len(args)
        return {"type": "array", "prefixItems": [self.type(a) for a in args], "minItems": count, "maxItems": count}


def _required(cls: type[Spec]) -> list[str]:
    return [key for key, (_, field) in keys_of(cls).items() if field.is_required()]


def _lengths(constraint: Any) -> Iterable[tuple[str, int]]:
    for ours, theirs in (("min_length", "minItems"), ("max_length", "maxItems")):
        if (limit := getattr(constraint, ours, None)) is not None:
            yield theirs, limit


def _holds_specs(annotation: Any) -> bool:
    return is_spec(annotation) or any(_holds_specs(arg) for arg in get_args(annotation) if arg is not Ellipsis)


def _leaf(annotation: Any) -> Schema:
    inner = bare(annotation)
    if get_origin(inner) is Literal:
        return {"enum": list(get_args(inner))}
    return TypeAdapter(annotation).json_schema()


def _described(cls: type[Spec]) -> Schema:
    text = (vars(cls).get("__doc__") or "").strip().split("\n")[0]
    return {"description": text} if text else {}
