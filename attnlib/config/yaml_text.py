"""YAML text to nodes: YAML 1.2's core schema, with positions, budgets and plain words for what is wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from attnlib.config.nodes import MAX_DEPTH, Budget, Entry, Node
from attnlib.config.scalars import resolve
from attnlib.errors import SpecError, nearest
from attnlib.spec.places import Mark, Place, PlacedError, SpecErrors
from attnlib.spec.words import shown

_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_TAB = re.compile("[ ]*\t")
_KEY = re.compile(r"""([\w.\-]+|"[^"]*"|'[^']*')\s*:(?=\s|$)""")
_LONG_LINE = re.compile("[^\n]{100000}")
_CORE = "tag:yaml.org,2002:"
_QUOTES = "\"'"
_UNCLOSED = ("flow", "quoted", "simple key")


def parse(text: str, source: str, budget: Budget, *, lines: bool = True) -> Node:
    """The one document of a text; `source` names it in marks, without lines for text from a command line.

    Raises SpecErrors: of broken syntax the first, of the rest all.
    """
    return _Parser(text, source, budget, lines).document()


class _Parser:
    def __init__(self, text: str, source: str, budget: Budget, lines: bool) -> None:
        self.text, self.source, self.budget, self.lines = text, source, budget, lines
        self.anchors: dict[str, tuple[Node, int, int] | None] = {}
        self.errors: list[SpecError] = []

    def document(self) -> Node:
        try:
            root = self.single(self.events())
        except PlacedError as error:
            raise SpecErrors([*self.errors, error]) from None
        if self.errors:
            raise SpecErrors(self.errors)
        return root

    def mark(self, position: Any) -> Mark:
        return self.mark_at(position.line, position.column)

    def mark_at(self, line: int, column: int) -> Mark:
        return Mark(self.source, line + 1, column + 1) if self.lines else Mark(self.source)

    def fail(self, place: Place, mark: Mark, fact: str, wish: str = "", hint: str = "") -> None:
        self.errors.append(PlacedError(place, fact, wish, hint, mark=mark))

    def events(self) -> Iterator[Any]:
        """ruamel's events; every way in which it fails becomes one SpecError."""
        from ruamel.yaml import YAML
        from ruamel.yaml.error import MarkedYAMLError

        if bad := _UNPRINTABLE.search(self.text):
            line, column = self.text.count("\n", 0, bad.start()), bad.start() - self.text.rfind("\n", 0, bad.start()) - 1
            mark = self.mark_at(line, column)
            raise self.at(line, column, mark, f"the character {bad[0]!a}", "wish printable text")
        if long := _LONG_LINE.search(self.text):  # some of them take the scanner quadratic time
            line = self.text.count("\n", 0, long.start())
            raise self.at(line, 0, self.mark_at(line, 0), "a line of 100,000 characters", "wish it cut")
        last: Any = None
        try:
            for event in YAML(typ="safe", pure=True).parse(self.text):
                last = event
                yield event
        except MarkedYAMLError as error:
            raise self.broken(error) from None
        except PlacedError:
            raise
        except Exception as error:  # the scanner lets OverflowError and others escape from odd escapes and anchors
            mark = self.mark(last.end_mark) if last is not None else Mark(self.source)
            raise PlacedError((), "not YAML", "wish YAML 1.2", type(error).__name__, mark=mark) from None

    def broken(self, error: Any) -> PlacedError:
        problem, context = " ".join(str(error.problem).split()), str(error.context or "")
        position = error.problem_mark
        if error.context_mark is not None and any(word in context for word in _UNCLOSED):
            position = error.context_mark
        position = position or error.context_mark
        if position is None:
            return PlacedError((), problem, "wish YAML 1.2", mark=Mark(self.source))
        mark = self.mark(position)
        if tab := _TAB.match(self.text, self._line_start(position.line)):
            place = self.mark_at(position.line, tab.end() - tab.start() - 1)
            return self.at(position.line, 0, place, "a tab in the indentation", "wish spaces")
        fact, hint = _in_words(problem, context, self.text[error.context_mark.index :][:1] if error.context_mark else "")
        column = 0 if "mapping values" in problem else position.column  # the key whose value has the ':' in it
        return self.at(position.line, column, mark, fact, "wish YAML 1.2", hint)

    def at(self, line: int, column: int, mark: Mark, fact: str, wish: str, hint: str = "") -> PlacedError:
        """An error of text without a tree yet: the key before the column, or the line's first, stands for the path."""
        start = self._line_start(line)
        keys = list(_KEY.finditer(self.text[start:].split("\n", 1)[0][:1000]))
        before = [key for key in keys if key.start() <= column] or keys[:1]
        near = f" at {before[-1][1].strip(_QUOTES)!a}" if before else ""
        return PlacedError((), fact + near, wish, hint, mark=mark)

    def _line_start(self, line: int) -> int:
        start = 0
        for _ in range(line):
            start = self.text.find("\n", start) + 1
        return start

    def single(self, events: Iterator[Any]) -> Node:
        """The root node of the only document."""
        root: Node | None = None
        for event in events:
            name = type(event).__name__
            if name == "DocumentStartEvent":
                if root is not None:
                    raise PlacedError((), "a second document", "wish one a file", mark=self.mark(event.start_mark))
                if event.version not in (None, (1, 2)):
                    version = ".".join(map(str, event.version))
                    raise PlacedError((), f"YAML {version}", "wish YAML 1.2", mark=self.mark(event.start_mark))
                root = self.node(next(events), events, ())
        return root if root is not None else Node(None, self.mark_at(0, 0))

    def node(self, event: Any, events: Iterator[Any], place: Place) -> Node:
        mark, name = self.mark(event.start_mark), type(event).__name__
        if name == "AliasEvent":
            return self.alias(event, place, mark)
        if len(place) > MAX_DEPTH:
            raise PlacedError(_outer(place), "nested too deep", f"wish at most {MAX_DEPTH} levels", mark=mark)
        self.budget.spend(1, place, mark)
        before = self.budget.nodes + 1
        if event.anchor:
            self.anchors[event.anchor] = None  # known, but not finished
        if name == "ScalarEvent":
            made = Node(self.scalar(event, place, mark), mark)
        else:
            kind = "map" if name == "MappingStartEvent" else "seq"
            if event.tag not in (None, "!", _CORE + kind):
                self.bad_tag(event.tag, place, mark)
            made = Node(self.mapping(events, place) if kind == "map" else self.sequence(events, place), mark)
        if event.anchor:
            self.anchors[event.anchor] = (made, before - self.budget.nodes, _height(made))
        return made

    def alias(self, event: Any, place: Place, mark: Mark) -> Node:
        name = event.anchor if len(event.anchor) <= 60 else f"{event.anchor[:57]}..."
        if event.anchor not in self.anchors:
            hint = nearest(name, self.anchors)
            raise PlacedError(place, f"alias *{name} of an unknown anchor", f"wish an earlier &{name}", hint, mark=mark)
        found = self.anchors[event.anchor]
        if found is None:
            raise PlacedError(place, f"alias *{name} inside its own anchor", "wish a finite tree", mark=mark)
        node, size, height = found
        self.budget.spend_alias(place, mark)
        self.budget.spend(size, place, mark)
        if len(place) + height > MAX_DEPTH + 1:
            raise PlacedError(_outer(place), "nested too deep", f"wish at most {MAX_DEPTH} levels", mark=mark)
        return node

    def sequence(self, events: Iterator[Any], place: Place) -> list[Node]:
        items: list[Node] = []
        while type(event := next(events)).__name__ != "SequenceEndEvent":
            items.append(self.node(event, events, (*place, len(items))))
        return items

    def mapping(self, events: Iterator[Any], place: Place) -> dict[str, Entry]:
        found: dict[str, Entry] = {}
        merged: list[Node] | None = None
        while type(event := next(events)).__name__ != "MappingEndEvent":
            mark = self.mark(event.start_mark)
            if type(event).__name__ != "ScalarEvent":
                raise PlacedError(place, "a key that is not text", "wish text as a key", mark=mark)
            key_node = self.node(event, events, place)
            is_merge = key_node.value == "<<" and not getattr(event, "style", None) and event.tag is None
            key = self.key(key_node, place, mark)
            inner = (*place, key)
            value = self.node(next(events), events, inner)
            if (merged is not None) if is_merge else key in found:
                hint = "" if is_merge else f"first on line {found[key].key.line}"
                self.fail(inner, mark, "duplicate key", "wish it once", hint)
            elif is_merge:
                merged = self.merge_sources(value, inner)
            else:
                found[key] = Entry(mark, value)
        for source in merged or ():
            assert isinstance(source.value, dict)
            for key, entry in source.value.items():
                found.setdefault(key, entry)
        return found

    def key(self, node: Node, place: Place, mark: Mark) -> str:
        if isinstance(node.value, str):
            return node.value
        self.fail(place, mark, f"the key {shown(node.value)}", "wish text as a key", "write it in quotes")
        return str(node.value)[:40]

    def merge_sources(self, value: Node, place: Place) -> list[Node]:
        sources = value.value if isinstance(value.value, list) else [value]
        if all(isinstance(source.value, dict) for source in sources):
            return list(sources)
        self.fail(place, value.mark, "a merge of what is no mapping", "wish an alias of a mapping, or a list of them")
        return []

    def bad_tag(self, tag: str, place: Place, mark: Mark) -> None:
        tag = shown("!!" + tag.removeprefix(_CORE) if tag.startswith(_CORE) else tag).strip(_QUOTES)
        self.fail(place, mark, f"the tag {tag}", "wish plain YAML", "nothing is constructed from tags")

    def scalar(self, event: Any, place: Place, mark: Mark) -> Any:
        tag, text = event.tag, event.value
        if tag in ("!", _CORE + "str") or (tag is None and not event.implicit[0]):
            return text
        wanted = {_CORE + name: types for name, types in _TAGGED.items()}.get(tag)
        if tag is not None and wanted is None:
            self.bad_tag(tag, place, mark)
            return text
        try:
            value = resolve(text)
        except ValueError as error:
            self.fail(place, mark, str(error), "wish a shorter one")
            return 0
        if wanted is None or type(value) in wanted:
            return value
        if tag == _CORE + "float" and type(value) is int:
            return float(value)
        self.fail(place, mark, f"{shown(text)} under the tag !!{tag.removeprefix(_CORE)}", "wish a value of that type")
        return text


_TAGGED: dict[str, tuple[type, ...]] = {"int": (int,), "float": (float,), "bool": (bool,), "null": (type(None),)}


def _outer(place: Place) -> Place:
    """The beginning of a place too deep to print: as far as keys lead, at most twelve steps."""
    depth = next((n for n in range(len(place), 0, -1) if isinstance(place[n - 1], str)), 0)
    return place[: min(depth, 12)]


def _height(node: Node) -> int:
    if isinstance(node.value, dict):
        return 1 + max((_height(entry.node) for entry in node.value.values()), default=0)
    return 1 + max(map(_height, node.value), default=0) if isinstance(node.value, list) else 1


def _in_words(problem: str, context: str, opening: str) -> tuple[str, str]:
    """A scanner's problem and a hint, in the words of someone who writes configs."""
    if "mapping values are not allowed" in problem:
        return "a ':' where no key can be", "check the indentation, or quote a text with ': ' in it"
    if "could not find expected ':'" in problem:
        return "a line without 'key: value'", "check the indentation, or add the ':'"
    if "block end" in problem:
        return "a line that does not line up with its neighbours", "check the indentation"
    if "quoted scalar" in context:
        return "a quote that is not closed", ""
    if "flow" in context and ("expected ','" in problem or "stream end" in problem):
        return f"a {opening if opening in ('[', '{') else '[ or {'} that is not closed, or a missing comma", ""
    return shown(problem).strip(_QUOTES), ""
