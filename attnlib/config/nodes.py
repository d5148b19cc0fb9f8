"""YAML trees with the position of every key and value, how they merge, and the budgets that bound them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from attnlib.config.scalars import Scalar
from attnlib.spec.places import Mark, Marks, Place, PlacedError

MAX_NODES = 20_000
MAX_ALIASES = 200
MAX_DEPTH = 60
MAX_FILES = 50


class Entry(NamedTuple):
    """What a key of a mapping leads to, and where the key stands."""

    key: Mark
    node: Node


@dataclass(frozen=True, slots=True)
class Node:
    """A value and where it stands. Nodes are shared by aliases and merges, so nothing changes them."""

    value: dict[str, Entry] | list[Node] | Scalar
    mark: Mark


@dataclass
class Budget:
    """What is left for one config with everything it extends; aliases count as often as they are used."""

    nodes: int = MAX_NODES
    aliases: int = MAX_ALIASES
    files: int = MAX_FILES

    def spend(self, nodes: int, place: Place, mark: Mark) -> None:
        self.nodes -= nodes
        if self.nodes < 0:
            raise PlacedError(place, "too many values", f"wish at most {MAX_NODES} after aliases", mark=mark)

    def spend_alias(self, place: Place, mark: Mark) -> None:
        self.aliases -= 1
        if self.aliases < 0:
            raise PlacedError(place, "too many aliases", f"wish at most {MAX_ALIASES}", mark=mark)


def merge(base: Node, over: Node) -> Node:
    """`over` laid on `base`: mappings key by key, all else replaced; a mapping of another `kind` replaces too.

    Text under a mapping is a kind by its short name: `rms` with `{eps: 1e-5}` laid on it is `{kind: rms, eps: 1e-5}`.
    """
    if not isinstance(over.value, dict):
        return over
    base = as_mapping(base)
    if not isinstance(base.value, dict):
        return over
    old, new = (node["kind"].node.value if "kind" in node else None for node in (base.value, over.value))
    if old is not None and new is not None and old != new:
        return over
    merged = dict(base.value)
    for key, entry in over.value.items():
        merged[key] = Entry(entry.key, merge(merged[key].node, entry.node)) if key in merged else entry
    return Node(merged, over.mark)


def as_mapping(node: Node) -> Node:
    """A kind's short name as the mapping it is short for; other nodes as they are."""
    if isinstance(node.value, str):
        return Node({"kind": Entry(node.mark, node)}, node.mark)
    return node


def flatten(root: Node) -> tuple[Any, Marks]:
    """The tree as plain dicts, lists and values, and its marks."""
    values: dict[Place, Mark] = {}
    keys: dict[Place, Mark] = {}

    def walk(node: Node, place: Place, mark: Mark) -> Any:
        values[place] = mark
        if isinstance(node.value, dict):
            made = {}
            for key, (key_mark, child) in node.value.items():
                inner = (*place, key)
                keys[inner] = key_mark
                # a mapping or list is best found by its key; its first line may be some lines below
                container = isinstance(child.value, dict | list)
                made[key] = walk(child, inner, key_mark if container else child.mark)
            return made
        if isinstance(node.value, list):
            return [walk(child, (*place, n), child.mark) for n, child in enumerate(node.value)]
        return node.value

    return walk(root, (), root.mark), Marks(values, keys)
