"""`key=value` overrides from a command line, laid on a tree."""

from __future__ import annotations

from attnlib.config.nodes import Budget, Entry, Node, as_mapping
from attnlib.config.yaml_text import parse
from attnlib.errors import SpecError
from attnlib.spec.places import Mark, Place, PlacedError, split_path
from attnlib.spec.words import shown


def override(root: Node, text: str, budget: Budget) -> Node:
    """The tree with `a.b[0].c=VALUE` set; VALUE is YAML, and nothing after `=` is null.

    A value replaces what was there: `norm=rms` drops the old norm's fields, `norm.kind=rms` keeps them.
    """
    source = f"command line: {text if text.isprintable() else ascii(text)[1:-1]}"
    mark = Mark(source if len(source) <= 200 else source[:197] + "...")
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not key:
        raise PlacedError((), "no 'key=value'", "wish an override such as model.d_model=64", mark=mark)
    try:
        place = split_path(key)
    except SpecError as error:
        raise PlacedError((), f"the key {key!a}", error.wish, mark=mark) from None
    if place == ("extends",):
        raise PlacedError(place, "an override of extends", "wish it in a file", mark=mark)
    leaf = parse(value, mark.file, budget, lines=False)
    return _set(root, place, 0, leaf, mark)


def _set(node: Node, place: Place, depth: int, leaf: Node, mark: Mark) -> Node:
    if depth == len(place):
        return leaf
    step, here = place[depth], place[:depth]
    if node.value is None:
        node = Node({}, mark)
    if isinstance(node.value, list):
        items = list(node.value)
        n = _index(step, items, place[: depth + 1], mark)
        items[n] = _set(items[n], place, depth + 1, leaf, mark)
        return Node(items, node.mark)
    node = as_mapping(node)
    if not isinstance(node.value, dict) or isinstance(step, int):
        wish = "wish a key" if isinstance(node.value, dict) else "wish a mapping to set a key in"
        fact = f"the index [{step}]" if isinstance(node.value, dict) else shown(node.value)
        raise PlacedError(here, fact, wish, mark=mark)
    old = node.value.get(step)
    made = _set(old.node if old else Node(None, mark), place, depth + 1, leaf, mark)
    key = old.key if old and depth + 1 < len(place) else mark
    return Node({**node.value, step: Entry(key, made)}, node.mark)


def _index(step: str | int, items: list[Node], place: Place, mark: Mark) -> int:
    text = str(step)
    if not (text.isascii() and text.isdigit()) or len(text) > 6 or int(text) >= len(items):
        wish = f"wish 0 to {len(items) - 1}" if items else "wish a list that is not empty"
        raise PlacedError(place, "no such place in a list", wish, mark=mark)
    return int(text)
