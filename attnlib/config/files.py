"""Config files: reading with `extends` and overrides, and writing."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from attnlib.config.bundled import SUFFIXES, config_names, config_path
from attnlib.config.nodes import MAX_FILES, Budget, Node, flatten, merge
from attnlib.config.overrides import override
from attnlib.config.yaml_text import parse
from attnlib.config.yaml_write import to_yaml
from attnlib.errors import SpecError, nearest
from attnlib.spec.places import Mark, Marks, PlacedError
from attnlib.spec.words import shown

FORMAT = 1
MAX_BYTES = 1_000_000


def load_tree(path: str | os.PathLike[str], overrides: Iterable[str] = ()) -> tuple[dict[str, Any], Marks]:
    """The tree and the marks of a config file, or of a bundled one by name, with what it extends and the overrides.

    An override is `a.b[0].c=VALUE`. Raises SpecError or SpecErrors, each line with file, line and column.
    """
    budget = Budget()
    root = _load(_find(os.fspath(path)), budget, ())
    for text in overrides:
        root = override(root, text, budget)
    _check_format(root)
    tree, marks = flatten(root)
    return tree, marks


def parse_tree(text: str, source: str = "text", overrides: Iterable[str] = ()) -> tuple[dict[str, Any], Marks]:
    """`load_tree` for a config that is in memory; `extends` finds bundled names and files of the working folder."""
    budget = Budget()
    root = _compose(text, source, Path(), budget, ())
    for item in overrides:
        root = override(root, item, budget)
    _check_format(root)
    return flatten(root)


def write_file(tree: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Writes a tree as YAML that `load_tree` reads back; the old file stays whole until the new one is."""
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="utf-8", newline="\n") as file:
            file.write(to_yaml(tree))
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise SpecError(_spelled(path), f"cannot be written: {error.strerror}", "wish a writable file") from None
    finally:
        part.unlink(missing_ok=True)


def _load(path: Path, budget: Budget, chain: tuple[Path, ...]) -> Node:
    return _compose(_text(path), _spelled(path), path.parent, budget, (*chain, path.resolve()))


def _compose(text: str, source: str, folder: Path, budget: Budget, chain: tuple[Path, ...]) -> Node:
    """A file's node, laid on what it extends, first to last."""
    root = parse(text, source, budget)
    if not isinstance(root.value, dict):
        fact = "an empty file" if root.value is None else shown(_outline(root))
        raise PlacedError((), fact, "wish a mapping such as model: {...}", mark=root.mark)
    _check_format(root)
    if "extends" not in root.value:
        return root
    entry = root.value["extends"]
    own = Node({key: item for key, item in root.value.items() if key != "extends"}, root.mark)
    listed = entry.node.value if isinstance(entry.node.value, list) else [entry.node]
    base: Node | None = None
    for item in listed:
        under = _extended(item, folder, budget, chain)
        base = under if base is None else merge(base, under)
    return own if base is None else merge(base, own)


def _extended(item: Node, folder: Path, budget: Budget, chain: tuple[Path, ...]) -> Node:
    if not isinstance(item.value, str) or not item.value:
        raise PlacedError(("extends",), shown(_outline(item)), "wish a file name, or a list of them", mark=item.mark)
    budget.files -= 1
    if budget.files < 0:
        raise PlacedError(("extends",), "too many files", f"wish at most {MAX_FILES}", mark=item.mark)
    try:
        path = _find(item.value, folder)
    except SpecError as error:
        raise PlacedError(("extends",), error.fact, error.wish, error.hint, mark=item.mark) from None
    if path.resolve() in chain:
        round_trip = " -> ".join(ascii(p.name)[1:-1] for p in (*chain[chain.index(path.resolve()) :], path))
        raise PlacedError(("extends",), f"a circle: {round_trip}", "wish files that end", mark=item.mark)
    try:
        return _load(path, budget, chain)
    except PlacedError:
        raise
    except SpecError as error:  # of the file as a whole: say also who asked for it
        if hasattr(error, "errors"):
            raise
        raise PlacedError(("extends",), f"{error.path}: {error.fact}", error.wish, error.hint, mark=item.mark) from None


def _outline(node: Node) -> Any:
    return flatten(node)[0]


def _find(name: str, folder: Path = Path()) -> Path:
    """A file by its path from `folder`, with or without suffix, else the bundled config of that name."""
    names = [name] if name.endswith(SUFFIXES) else [name, *(name + suffix for suffix in SUFFIXES)]
    try:
        found = [path for path in (folder / n for n in names) if path.exists()]
    except (OSError, ValueError) as error:
        raise SpecError(ascii(name[:60])[1:-1], f"not a usable path: {_reason(error)}", "wish a file") from None
    files = [path for path in found if not path.is_dir()]
    if files:
        return Path(os.path.normpath(files[0]))
    known = config_names()
    if name.removesuffix(".yml").removesuffix(".yaml") in known:
        return config_path(name)
    if found:
        raise SpecError(ascii(name)[1:-1] or "config", "a folder" if name else "an empty name", "wish a file")
    near = nearest(Path(name).name, _neighbours(folder / name)) or nearest(name, known)
    raise SpecError(ascii(name)[1:-1], f"no such file {name!a}", "wish a config file or a bundled name", near)


def _neighbours(path: Path) -> list[str]:
    try:
        return [p.name for p in path.parent.iterdir() if p.suffix in SUFFIXES]
    except (OSError, ValueError):
        return []


def _text(path: Path) -> str:
    """A file's text, with every reason why it has none."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise SpecError(_spelled(path), "not a regular file", "wish a YAML file")
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise SpecError(_spelled(path), f"cannot be read: {_reason(error)}", "wish a readable file") from None
    if len(raw) > MAX_BYTES:
        raise SpecError(_spelled(path), "a file of more than 1 MB", "wish a config")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        mark = Mark(_spelled(path), before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1)
        raise PlacedError((), f"the byte 0x{raw[error.start]:02x} is not UTF-8", "wish UTF-8 text", mark=mark) from None


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _spelled(path: Path) -> str:
    text = str(path)
    return text if text.isprintable() else ascii(text)[1:-1]


def _check_format(root: Node) -> None:
    entry = root.value.get("format") if isinstance(root.value, dict) else None
    if entry is None:
        return
    found = entry.node.value
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        wish = f"wish a whole number, now {FORMAT}"
        raise PlacedError(("format",), shown(_outline(entry.node)), wish, mark=entry.node.mark)
    if found > FORMAT:
        hint = "written by a newer attnlib"
        raise PlacedError(("format",), f"format {found}", f"wish at most {FORMAT}", hint, mark=entry.node.mark)
