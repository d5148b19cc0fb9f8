"""Where in a tree and a file something stands, and errors that say so: `FILE:LINE:COL: path: fact, wish (hint)`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from attnlib.errors import SpecError

Place = tuple[str | int, ...]
"""The way from the root of a tree to a node: keys of mappings and indices of lists."""

_STEP = re.compile(r"\[(\d+)\]|\.?([^.\[\]]+)")
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_\-]+")


def join_path(place: Sequence[str | int]) -> str:
    """`("model", "blocks", 0, "norm")` as `model.blocks[0].norm`; keys that would not print plainly are quoted."""
    text = ""
    for step in place:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += ("." if text else "") + (step if _PLAIN_KEY.fullmatch(step) else ascii(step))
    return text


def split_path(path: str) -> Place:
    """The inverse of `join_path`; `a.0.b` keeps "0" as text, since only the tree knows whether it is an index."""
    place: list[str | int] = []
    at = 0
    while at < len(path):
        found = _STEP.match(path, at)
        if found is None or (at == 0 and path[0] == "."):
            raise SpecError(ascii(path), "not a path", "wish keys joined by dots, as in model.blocks[0].norm.eps")
        place.append(int(found[1]) if found[1] is not None else found[2])
        at = found.end()
    return tuple(place)


class Mark(NamedTuple):
    """A position in a text, counted from 1; line 0 is a text without lines, such as a command line argument."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        file = self.file if self.file.isprintable() else ascii(self.file)
        return f"{file}:{self.line}:{self.column}" if self.line else file


class Marks:
    """The marks of a tree's nodes and of the keys that lead to them."""

    def __init__(self, values: Mapping[Place, Mark], keys: Mapping[Place, Mark]) -> None:
        self._values, self._keys = dict(values), dict(keys)

    def at(self, place: Place | str, *, key: bool = False) -> Mark | None:
        """The mark of the node (or of its key) at `place`, or of the nearest node around it that has one."""
        place = split_path(place) if isinstance(place, str) else place
        for length in range(len(place), -1, -1):
            here = place[:length]
            table = self._keys if key and here in self._keys else self._values
            if here in table:
                return table[here]
        return None

    def locate(self, error: SpecError) -> SpecError:
        """The same error with the file, line and column its path stands at; for errors raised after reading."""
        if isinstance(error, PlacedError | SpecErrors):
            return error
        try:
            place = split_path(error.path)
        except SpecError:
            return error
        return PlacedError(place, error.fact, error.wish, error.hint, mark=self.at(place))


class PlacedError(SpecError):
    """A SpecError that knows its `place` in the tree and its `mark` in the file; `path` spells both."""

    def __init__(
        self, place: Place, fact: str, wish: str = "", hint: str = "", *, mark: Mark | None = None, root: str = ""
    ) -> None:
        self.place, self.mark, self.root = place, mark, root
        self.whole = False  # raised by a check over several fields, which a fault in one of them may have caused
        spelled = [str(mark) if mark else "", join_path((root, *place) if root else place)]
        super().__init__(": ".join(part for part in spelled if part) or "spec", fact, wish, hint)

    def __reduce__(self) -> Any:
        return _placed, (self.place, self.fact, self.wish, self.hint, self.mark, self.root)


def _placed(place: Place, fact: str, wish: str, hint: str, mark: Mark | None, root: str) -> PlacedError:
    return PlacedError(place, fact, wish, hint, mark=mark, root=root)


class SpecErrors(SpecError):
    """Everything that is wrong with a tree, at once; its text has one line an error, in the order of the file."""

    def __init__(self, errors: Iterable[SpecError]) -> None:
        found = list(errors)
        files = {name: n for n, name in reversed(list(enumerate(_mark(e).file for e in found)))}
        found.sort(key=lambda e: (files[_mark(e).file], _mark(e)[1:]))
        self.errors: tuple[SpecError, ...] = tuple(found)
        first = self.errors[0]
        super().__init__(first.path, first.fact, first.wish, first.hint)

    def __str__(self) -> str:
        return "\n".join(map(str, self.errors))

    def __reduce__(self) -> Any:
        return type(self), (self.errors,)


def _mark(error: SpecError) -> Mark:
    return (error.mark if isinstance(error, PlacedError) else None) or Mark("")


class FieldError(ValueError):
    """For a spec's validators: what is wrong with `field`; reading adds the path, file and line."""

    def __init__(self, field: str, fact: str, wish: str = "", hint: str = "") -> None:
        self.field, self.fact, self.wish, self.hint = field, fact, wish, hint
        super().__init__(f"{field}: {', '.join(part for part in (fact, wish) if part)}" + (f" ({hint})" if hint else ""))

    def __reduce__(self) -> Any:
        return type(self), (self.field, self.fact, self.wish, self.hint)
