"""Configs broken on purpose: every refusal is a SpecError, and nearly every one names the broken line and key."""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from spec_family import BERT, LLAMA, ToyConfig

from attnlib.config import config_folder, load_tree, parse_tree
from attnlib.errors import SpecError
from attnlib.spec import Marks, Place, PlacedError, SpecErrors, read

MUTATIONS = 1000


class Source(NamedTuple):
    """A config that reads, and where its keys and values stand."""

    name: str
    text: str
    keys: list[Value]  # everything that stands beside a key


class Value(NamedTuple):
    """A value beside its key; offsets are into the text."""

    key: str
    line: int
    key_at: int
    start: int
    end: int
    leaf: bool
    value: Any


class Mutant(NamedTuple):
    """A broken text and the lines and names of which a refusal must name one each."""

    text: str
    lines: tuple[int, ...]
    names: tuple[str, ...]


def read_toy(tree: Any, marks: Marks) -> None:
    read(ToyConfig, tree, marks=marks)


def read_real(tree: Any, marks: Marks) -> None:
    from attnlib.models.spec import ModelSpec

    read(ModelSpec, tree.get("model"), path="model", marks=marks)


def scan(name: str, text: str) -> Source:
    tree, marks = parse_tree(text, name)
    starts = [0, *(found.end() for found in re.finditer("\n", text))]
    values: dict[int, Value] = {}

    def offset(place: Place, *, key: bool) -> int | None:
        mark = marks.at(place, key=key)
        return starts[mark.line - 1] + mark.column - 1 if mark and mark.file == name else None

    def walk(node: Any, place: Place) -> None:
        for step, child in node.items() if isinstance(node, dict) else enumerate(node):
            inner = (*place, step)
            if isinstance(step, str) and (key_at := offset(inner, key=True)) is not None:
                leaf = not isinstance(child, dict | list)
                start = offset(inner, key=False) if leaf else None
                if start is None or text[start] == "*":
                    start = key_at + len(re.match(r"[^:]*:\s*(&\w+\s+)?", text[key_at:])[0])  # type: ignore[index]
                if text[start] not in "*&<" and text[start - 1] != "*":
                    end = start + (leaf_length(text, start) if leaf else node_length(text, start, key_at))
                    line = text.count("\n", 0, key_at) + 1
                    values[key_at] = Value(step, line, key_at, start, end, leaf, child)
            if isinstance(child, dict | list):
                walk(child, inner)

    walk(tree, ())
    return Source(name, text, sorted(values.values(), key=lambda v: v.key_at))


def leaf_length(text: str, start: int) -> int:
    found = re.match(r"""'[^'\n]*'|"[^"\n]*"|[^,\]}\n#]*""", text[start:])
    assert found
    return len(found[0].rstrip())


def node_length(text: str, start: int, key_at: int) -> int:
    """A flow node up to its closing bracket, a block node up to the next line that is not deeper than its key."""
    if text[start] in "[{":
        depth = 0
        for n, letter in enumerate(text[start:]):
            depth += (letter in "[{") - (letter in "]}")
            if not depth:
                return n + 1
    indent = key_at - text.rfind("\n", 0, key_at) - 1
    end = start
    for line in text[start:].splitlines(keepends=True):
        if end > start and line.strip() and len(line) - len(line.lstrip()) <= indent and not line.lstrip().startswith("-"):
            break
        end += len(line)
    return len(text[start:end].rstrip())


Operator = Callable[[Source, random.Random], Mutant | None]
OPERATORS: dict[str, Operator] = {}


def operator(made: Operator) -> Operator:
    OPERATORS[made.__name__] = made
    return made


def choose(source: Source, rng: random.Random, fits: Callable[[Value], bool] = lambda v: v.leaf) -> Value | None:
    found = [value for value in source.keys if fits(value)]
    return rng.choice(found) if found else None


def with_value(source: Source, value: Value | None, new: str) -> Mutant | None:
    if value is None:
        return None
    below = source.text.count("\n", 0, value.start) + 1  # a block begins on the line under its key
    return Mutant(source.text[: value.start] + new + source.text[value.end :], (value.line, below), (value.key,))


def is_number(value: Value) -> bool:
    return value.leaf and isinstance(value.value, int | float) and not isinstance(value.value, bool)


def in_block(source: Source, value: Value) -> bool:
    """Whether the key begins its line."""
    return not source.text[source.text.rfind("\n", 0, value.key_at) + 1 : value.key_at].strip()


def splice(lines: list[str], line: int, new: list[str], drop: int = 0) -> str:
    return "\n".join([*lines[: line - 1], *new, *lines[line - 1 + drop :]])


@operator
def typo_in_key(source: Source, rng: random.Random) -> Mutant | None:
    value = choose(source, rng, lambda v: len(v.key) > 3)
    if value is None:
        return None
    at = rng.randrange(1, len(value.key) - 1)
    typo = value.key[:at] + value.key[at + 1] + value.key[at] + value.key[at + 2 :]
    typo = typo if typo != value.key else value.key[:at] + value.key[at + 1 :]
    text = source.text[: value.key_at] + typo + source.text[value.key_at + len(value.key) :]
    return Mutant(text, (value.line,), (typo,))


@operator
def word_for_number(source: Source, rng: random.Random) -> Mutant | None:
    return with_value(source, choose(source, rng, is_number), rng.choice(["many", "'8'", "1_000", "1e-5x", "12 px"]))


@operator
def number_for_word(source: Source, rng: random.Random) -> Mutant | None:
    return with_value(source, choose(source, rng, lambda v: isinstance(v.value, str | bool)), rng.choice(["7", "0.5"]))


@operator
def out_of_range(source: Source, rng: random.Random) -> Mutant | None:
    return with_value(source, choose(source, rng, is_number), rng.choice(["-1", "-0.5", "-1000000", "1e300", "9" * 5000]))


@operator
def unknown_kind(source: Source, rng: random.Random) -> Mutant | None:
    value = choose(source, rng, lambda v: v.leaf and isinstance(v.value, str))
    return with_value(source, value, f"{value.value}x" if value and rng.random() < 0.5 else "nonsuch")


@operator
def duplicate_key(source: Source, rng: random.Random) -> Mutant | None:
    value = choose(source, rng, lambda v: v.leaf and in_block(source, v))
    if value is None:
        return None
    lines = source.text.split("\n")
    return Mutant(splice(lines, value.line, [lines[value.line - 1]]), (value.line, value.line + 1), (value.key,))


@operator
def duplicate_key_in_flow(source: Source, rng: random.Random) -> Mutant | None:
    value = choose(source, rng, lambda v: v.leaf and not in_block(source, v) and source.text[v.start] not in "[{")
    return with_value(source, value, f"{source.text[value.start : value.end]}, {value.key}: 1") if value else None


@operator
def tab_for_indentation(source: Source, rng: random.Random) -> Mutant | None:
    value = choose(source, rng, lambda v: v.line > 1 and in_block(source, v) and source.text[v.key_at - 1] == " ")
    if value is None:
        return None
    start = source.text.rfind("\n", 0, value.key_at) + 1
    return Mutant(source.text[:start] + "\t" + source.text[value.key_at :], (value.line,), (value.key,))


@operator
def one_space_too_many(source: Source, rng: random.Random) -> Mutant | None:
    value = choose(source, rng, lambda v: v.line > 1 and in_block(source, v))
    if value is None:
        return None
    # the parser stumbles there, or where the next line no longer lines up
    text = source.text[: value.key_at] + " " + source.text[value.key_at :]
    later = [v for v in source.keys if v.line > value.line and in_block(source, v)][:1]
    return Mutant(text, (value.line, *(v.line for v in later)), (value.key, *(v.key for v in later)))


@operator
def include_cycle(source: Source, rng: random.Random) -> Mutant | None:
    return Mutant(f"extends: {rng.choice(['c.yaml', './c.yaml', '[c]'])}\n{source.text}", (1,), ("extends",))


@operator
def missing_file(source: Source, rng: random.Random) -> Mutant | None:
    lines = source.text.split("\n")
    tops = [1] + [n + 1 for n, line in enumerate(lines) if re.match(r"[a-z]", line)]
    at = rng.choice(tops)
    return Mutant(splice(lines, at, [f"extends: {rng.choice(['nowhere', '../x.yaml', '/'])}"]), (at,), ("extends",))


@operator
def alias_bomb(source: Source, rng: random.Random) -> Mutant | None:
    steps = "abcdefgh"
    bomb = ["bomb_a: &a [x, x, x, x, x, x, x, x]"]
    bomb += [f"bomb_{new}: &{new} [{', '.join(['*' + old] * 8)}]" for old, new in itertools.pairwise(steps)]
    first = source.text.count("\n") + 1
    lines = tuple(range(first, first + len(bomb)))
    return Mutant(source.text.rstrip("\n") + "\n" + "\n".join(bomb) + "\n", lines, tuple(f"bomb_{s}" for s in steps))


@operator
def deleted_key(source: Source, rng: random.Random) -> Mutant | None:
    value = choose(source, rng, lambda v: v.leaf and in_block(source, v))
    if value is None:
        return None
    lines = source.text.split("\n")
    indent = len(lines[value.line - 1]) - len(lines[value.line - 1].lstrip())
    parent = next(
        (n for n in range(value.line - 1, 0, -1) if re.match(rf" {{0,{max(indent - 1, 0)}}}[^ #]", lines[n - 1])), 1
    )
    return Mutant(splice(lines, value.line, [], 1), (parent, value.line), (value.key,))


@operator
def scalar_for_mapping(source: Source, rng: random.Random) -> Mutant | None:
    return with_value(source, choose(source, rng, lambda v: isinstance(v.value, dict)), rng.choice(["5", "true", "nonsuch"]))


@operator
def list_for_mapping(source: Source, rng: random.Random) -> Mutant | None:
    return with_value(source, choose(source, rng, lambda v: isinstance(v.value, dict)), "[1, 2]")


@operator
def scalar_for_list(source: Source, rng: random.Random) -> Mutant | None:
    return with_value(source, choose(source, rng, lambda v: isinstance(v.value, list)), rng.choice(["0.5", "nonsuch"]))


@operator
def mapping_for_scalar(source: Source, rng: random.Random) -> Mutant | None:
    return with_value(source, choose(source, rng), rng.choice(["{}", "{a: 1}", "{kind: nonsuch}"]))


@operator
def list_for_scalar(source: Source, rng: random.Random) -> Mutant | None:
    value = choose(source, rng)
    return with_value(source, value, f"[{source.text[value.start : value.end]}]") if value else None


@operator
def nested_deep(source: Source, rng: random.Random) -> Mutant | None:
    left, right = rng.choice([("[", "]"), ("{a: ", "}")])
    return with_value(source, choose(source, rng), left * 80 + right * 80)


@operator
def bool_for_number(source: Source, rng: random.Random) -> Mutant | None:
    return with_value(source, choose(source, rng, is_number), rng.choice(["true", "yes"]))


@operator
def not_a_number(source: Source, rng: random.Random) -> Mutant | None:
    return with_value(source, choose(source, rng, is_number), rng.choice([".nan", ".inf", "-.inf", "1e999"]))


@operator
def null_for_value(source: Source, rng: random.Random) -> Mutant | None:
    return with_value(source, choose(source, rng, lambda v: True), rng.choice(["null", "~"]))


@operator
def swapped_values(source: Source, rng: random.Random) -> Mutant | None:
    a, b = choose(source, rng), choose(source, rng)
    if a is None or b is None or a.start >= b.start:
        return None
    text = source.text
    new = text[: a.start] + text[b.start : b.end] + text[a.end : b.start] + text[a.start : a.end] + text[b.end :]
    return Mutant(new, (a.line, b.line), (a.key, b.key))


@operator
def foreign_tag(source: Source, rng: random.Random) -> Mutant | None:
    return with_value(source, choose(source, rng), rng.choice(["!!python/object:os.system x", "!mine 3", "!!int x"]))


@operator
def unclosed(source: Source, rng: random.Random) -> Mutant | None:
    return with_value(
        source, choose(source, rng, lambda v: v.leaf and in_block(source, v)), rng.choice(["[1, 2", "{a: 1", "'x"])
    )


@operator
def colon_in_value(source: Source, rng: random.Random) -> Mutant | None:
    return with_value(source, choose(source, rng, lambda v: v.leaf and in_block(source, v)), "a: b")


@operator
def control_character(source: Source, rng: random.Random) -> Mutant | None:
    return with_value(source, choose(source, rng), rng.choice(["\0", "a\x07", "\ufffe"]))


@operator
def unknown_alias(source: Source, rng: random.Random) -> Mutant | None:
    return with_value(source, choose(source, rng), "*nonsuch")


def names(error: SpecError, mutant: Mutant) -> bool:
    """Whether a line of the refusal stands at a mutated line and has a mutated key in it."""
    found = error.errors if isinstance(error, SpecErrors) else (error,)
    for one in found:
        words = set(re.findall(r"[\w\-]+", str(one).split(", wish", 1)[0]))
        in_line = isinstance(one, PlacedError) and one.mark is not None and one.mark.line in mutant.lines
        if in_line and words & set(mutant.names):
            return True
    return False


def sources() -> list[tuple[Source, Callable[[Any, Marks], None]]]:
    found: list[tuple[Source, Callable[[Any, Marks], None]]] = [
        (scan("llama.yaml", LLAMA), read_toy),
        (scan("bert.yaml", BERT), read_toy),
    ]
    for path in sorted(config_folder().rglob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        if "\nmodel:" in text and "extends:" not in text:  # those that extend stand on others, which are here themselves
            found.append((scan(path.name, text), read_real))
    return found


def test_unmutated_configs_are_read(tmp_path: Path) -> None:
    for source, reader in sources():
        (tmp_path / "c.yaml").write_text(source.text, encoding="utf-8")
        reader(*load_tree(tmp_path / "c.yaml"))


def test_a_thousand_mutants_are_refused_by_name(tmp_path: Path) -> None:
    rng, found = random.Random(0), sources()
    refused: Counter[str] = Counter()
    named: Counter[str] = Counter()
    missed: list[str] = []
    done = 0
    while done < MUTATIONS:
        name = list(OPERATORS)[done % len(OPERATORS)]
        source, reader = rng.choice(found)
        mutant = OPERATORS[name](source, rng)
        if mutant is None or mutant.text == source.text:
            continue
        done += 1
        (tmp_path / "c.yaml").write_text(mutant.text, encoding="utf-8")
        try:
            reader(*load_tree(tmp_path / "c.yaml"))
        except SpecError as error:
            refused[name] += 1
            assert all(line.isprintable() for line in str(error).split("\n"))
            if names(error, mutant):
                named[name] += 1
            else:
                missed.append(f"{name} {mutant.lines} {mutant.names}: {error}")
    total = sum(refused.values())
    assert len(refused) >= 12 and len(refused) == len(OPERATORS), set(OPERATORS) - set(refused)
    assert total >= 0.75 * MUTATIONS, f"{total} refused"
    print(f"{total} of {done} refused, {sum(named.values())} by line and key, {len(OPERATORS)} operators")
    assert sum(named.values()) >= 0.95 * total, "\n".join(missed)


@pytest.mark.parametrize("seed", [1, 2])
def test_random_bytes_never_bring_a_traceback(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(100):
        raw = bytearray(LLAMA.encode())
        for _ in range(rng.randrange(1, 6)):
            at = rng.randrange(len(raw))
            raw[at : at + rng.randrange(3)] = bytes(
                rng.choice(b"\t\n :-[]{}&*!|>'\"%@`#,?\x00\xff\xc30<~\\") for _ in range(2)
            )
        (tmp_path / "c.yaml").write_bytes(bytes(raw))
        try:
            read_toy(*load_tree(tmp_path / "c.yaml"))
        except SpecError as error:
            assert str(error)
