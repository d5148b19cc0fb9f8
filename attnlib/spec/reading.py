"""From a tree of plain values to specs: kinds resolved when read, every fault collected."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError

from attnlib.errors import SpecError, nearest
from attnlib.spec.base import Spec, keys_of
from attnlib.spec.faults import near_name, unknown_field
from attnlib.spec.places import Marks, Place, PlacedError, SpecErrors, split_path
from attnlib.spec.words import bare, is_spec, members, one_of, shown, spec_words, type_hint, type_words

S = TypeVar("S", bound=Spec)


class _Failed:
    """Stands for a value that could not be read; its faults are already noted."""


_FAILED = _Failed()


def read(slot_or_spec: type[S], tree: Any, *, path: str = "", marks: Marks | None = None) -> S:
    """The spec that a tree of dicts, lists and plain values describes.

    A mapping names its `kind` where the slot has several (or leaves it to the slot's default); text is short for
    `{kind: text}`; what else is short the slot says in `short`. Specs may stand in the tree as they are.
    `path` is where the tree stands in the whole, `marks` the file positions that `load_tree` gives.
    Raises SpecErrors with every fault at once.
    """
    reader = _Reader(marks)
    made = reader.spec(slot_or_spec, tree, split_path(path))
    if reader.errors:
        raise SpecErrors(reader.errors)
    assert isinstance(made, slot_or_spec)
    return made


class _Reader:
    def __init__(self, marks: Marks | None) -> None:
        self.marks = marks
        self.errors: list[SpecError] = []
        self.seen: set[tuple[Any, ...]] = set()

    def fail(self, place: Place, fact: str, wish: str = "", hint: str = "", *, key: bool = False) -> _Failed:
        mark = self.marks.at(place, key=key) if self.marks else None
        seen = (mark, place[-1:], fact)  # an alias brings the same text, and so the same fault, to several places
        if mark is None or seen not in self.seen:
            self.errors.append(PlacedError(place, fact, wish, hint, mark=mark))
        self.seen.add(seen)
        return _FAILED

    def spec(self, slot: type[Spec], tree: Any, place: Place) -> Any:
        """A spec of `slot`, or _FAILED."""
        if isinstance(tree, slot):
            return tree
        children: dict[str, Place] = {}
        kinds = slot.kinds()
        if isinstance(tree, str) and tree in kinds:
            tree = {"kind": tree}
        elif not isinstance(tree, Mapping):
            long = slot.short(tree)
            if not isinstance(long, Mapping):
                return self._no_mapping(slot, tree, place)
            children = {key: place for key, value in long.items() if value is tree}
            tree = long
        cls = self._class(slot, kinds, tree, place)
        if cls is None:
            return _FAILED
        return self._fields(cls, slot, tree, place, children)

    def _no_mapping(self, slot: type[Spec], tree: Any, place: Place) -> _Failed:
        kinds = slot.kinds()
        if isinstance(tree, str) and kinds:
            hint = nearest(tree, kinds)
            return self.fail(place, f"unknown kind {shown(tree)}", f"wish {one_of(sorted(kinds))}", hint)
        return self.fail(place, shown(tree), f"wish {spec_words(slot)}")

    def _class(self, slot: type[Spec], kinds: Mapping[str, type[Spec]], tree: Mapping[Any, Any], place: Place) -> Any:
        known = {**({slot.kind: slot} if slot.kind else {}), **kinds}
        if not known:
            return slot
        if "kind" not in tree:
            name = slot.default_kind or slot.kind
            if name in known:
                return known[name]
            wish = f"wish {one_of(sorted(known))}"
            for key in tree:  # a misspelled kind is better named than missed
                if isinstance(key, str) and (hint := nearest(key, ["kind"])):
                    self.fail((*place, key), "unknown field where the kind is missing", wish, hint, key=True)
                    return None
            self.fail((*place, "kind"), "missing", wish, key=True)
            return None
        kind = tree["kind"]
        if isinstance(kind, str) and kind in known:
            return known[kind]
        hint = nearest(kind, known) if isinstance(kind, str) else ""
        self.fail((*place, "kind"), f"unknown kind {shown(kind)}", f"wish {one_of(sorted(known))}", hint)
        return None

    def _fields(
        self, cls: type[Spec], slot: type[Spec], tree: Mapping[Any, Any], place: Place, children: Mapping[str, Place]
    ) -> Any:
        keys, faulty = keys_of(cls), False
        values: dict[str, Any] = {}
        failed: set[str] = set()
        for key, value in tree.items():
            if key == "kind" and (cls.kind or slot.kinds()):
                continue
            if key not in keys:
                error = unknown_field((*place, str(key)), cls, slot)
                failed.update(meant for meant in keys if error.hint == f"did you mean {meant!r}?")
                self.fail(error.place, error.fact, error.wish, error.hint, key=True)
                faulty = True
                continue
            name, field = keys[key]
            made = self.value(field.annotation, value, children.get(key, (*place, key)))
            if made is _FAILED:
                failed.add(key)
            else:
                values[name] = made
        try:
            made = cls(**values)
        except SpecErrors as error:
            self._adopt(error, place, failed, children)
            return _FAILED
        return _FAILED if faulty or failed else made

    def _adopt(self, error: SpecErrors, place: Place, failed: set[str], children: Mapping[str, Place]) -> None:
        for found in error.errors:
            assert isinstance(found, PlacedError)
            head = str(found.place[0]) if found.place else ""
            if head in failed or (failed and found.whole):  # a fault of a fault: the value was not there
                continue
            inner = children[head] + found.place[1:] if head in children else place + found.place
            self.fail(inner, found.fact, found.wish, found.hint, key=found.fact == "missing")

    def value(self, annotation: Any, value: Any, place: Place) -> Any:
        """A field's value with the specs in it read; leaves are left to pydantic, which checks them in the spec."""
        if not _holds_specs(annotation):
            return value
        options = [bare(member) for member in members(bare(annotation))]
        leaves = tuple(option for option in options if not _holds_specs(option))
        if leaves and _fits(leaves, value):
            return value
        option = _choose([option for option in options if _holds_specs(option)], value)
        if option is None or (len(options) > 1 and _is_stranger(option, value)):
            unknown = "unknown kind " if isinstance(value, str) and is_spec(option) and option.kinds() else ""
            hint = type_hint(value, annotation) or near_name(value, annotation)
            return self.fail(place, unknown + shown(value), f"wish {type_words(annotation)}", hint)
        if is_spec(option):
            return self.spec(option, value, place)
        if get_origin(option) is dict:
            inner = {key: self.value(get_args(option)[1], item, (*place, str(key))) for key, item in value.items()}
            return _FAILED if any(item is _FAILED for item in inner.values()) else inner
        items = tuple(self.value(_item(option, n), item, (*place, n)) for n, item in enumerate(value))
        return _FAILED if any(item is _FAILED for item in items) else items


def _is_stranger(option: Any, value: Any) -> bool:
    """Whether neither `option` nor its short forms take a value of this type."""
    if not is_spec(option) or isinstance(value, option | Mapping):
        return False
    return not (isinstance(value, str) and value in option.kinds()) and not isinstance(option.short(value), Mapping)


def _item(option: Any, n: int) -> Any:
    args = get_args(option)
    return args[0] if args[-1] is Ellipsis else args[min(n, len(args) - 1)]


@lru_cache(maxsize=1024)
def _holds_specs(annotation: Any) -> bool:
    return is_spec(annotation) or any(_holds_specs(arg) for arg in get_args(annotation) if arg is not Ellipsis)


@lru_cache(maxsize=256)
def _adapter(leaves: tuple[Any, ...]) -> TypeAdapter[Any]:
    union: Any = Union[leaves]  # noqa: UP007 (made at run time)
    return TypeAdapter(union, config=ConfigDict(strict=True, allow_inf_nan=False))


def _fits(leaves: tuple[Any, ...], value: Any) -> bool:
    try:
        _adapter(leaves).validate_python(tuple(value) if isinstance(value, list) else value)
    except ValidationError:
        return False
    return True


def _choose(options: list[Any], value: Any) -> Any:
    """The member of a union that a value's form asks for."""
    specs = [option for option in options if is_spec(option)]
    if isinstance(value, list | tuple):
        for option in options:
            if get_origin(option) is tuple:
                return option
    if isinstance(value, Mapping) and ("kind" not in value or not specs):
        for option in options:
            if get_origin(option) is dict and not any(_reads(spec, value) for spec in specs):
                return option
    kind = value.get("kind") if isinstance(value, Mapping) else value
    for option in specs:
        if isinstance(value, option) or (isinstance(kind, str) and kind in option.kinds()):
            return option
    return specs[0] if specs else None


def _reads(spec: type[Spec], value: Mapping[Any, Any]) -> bool:
    """Whether a mapping without a kind looks like the spec that the slot reads without one."""
    cls = spec.kinds().get(spec.default_kind, spec)
    return any(key in keys_of(cls) for key in value)
