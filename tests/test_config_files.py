"""Config files: YAML 1.2, extends, overrides, positions, budgets."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import attnlib.config.bundled
from attnlib.config import config_folder, config_names, config_path, load_tree, parse_tree, to_yaml, write_file
from attnlib.errors import SpecError
from attnlib.spec import Mark


def tree_of(text: str, *overrides: str) -> Any:
    return parse_tree(text, "c.yaml", overrides)[0]


def error_of(text: str, *overrides: str) -> str:
    with pytest.raises(SpecError) as caught:
        parse_tree(text, "c.yaml", overrides)
    return str(caught.value)


def write_files(folder: Path, **texts: str) -> None:
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("1e-5", 1e-5), ("1E5", 1e5), (".5", 0.5), ("5.", 5.0), ("-0", 0), ("010", 10), ("0o17", 15), ("0xff", 255)),
        *(("yes", "yes"), ("on", "on"), ("true", True), ("False", False), ("~", None), ("", None), ("null", None)),
        *(
            ("1_000", "1_000"),
            ("1:30", "1:30"),
            ("2001-01-01", "2001-01-01"),
            ("'1'", "1"),
            ("!!str 1", "1"),
            ("! 1", "1"),
        ),
        *((".inf", math.inf), ("-.INF", -math.inf), ("!!float 1", 1.0), ("+12", 12), ("0.1.2", "0.1.2"), ("=", "=")),
    ],
)
def test_scalars_follow_the_core_schema_of_yaml_1_2(text: str, value: Any) -> None:
    found = tree_of(f"a: {text}\n")["a"]
    assert found == value and type(found) is type(value)


def test_marks_give_the_line_and_column_of_values_and_keys() -> None:
    _, marks = parse_tree("a:\n  b: [1, {c: 2}]\n  d:\n    e: 3\n", "c.yaml")
    assert marks.at("a.b[1].c") == Mark("c.yaml", 2, 14)
    assert marks.at(("a", "b", 1, "c"), key=True) == Mark("c.yaml", 2, 11)
    assert marks.at("a.d") == Mark("c.yaml", 3, 3)
    assert marks.at("a.d.e.f") == Mark("c.yaml", 4, 8)
    assert marks.at("x") == Mark("c.yaml", 1, 1)


def test_merge_keys_and_aliases() -> None:
    text = "a: &x {p: 1, q: 2}\nb: &y {q: 3, r: 4}\nc: {<<: *x, q: 9}\nd:\n  <<: [*x, *y]\n  s: 5\n"
    tree = tree_of(text)
    assert tree["c"] == {"p": 1, "q": 9}
    assert tree["d"] == {"p": 1, "q": 2, "r": 4, "s": 5}
    assert tree_of("a: {'<<': 1}")["a"] == {"<<": 1}


BROKEN = {
    "a: 1\nb: 2\na: 3\n": "c.yaml:3:1: a: duplicate key, wish it once (first on line 1)",
    "a:\n\tb: 1\n": "c.yaml:2:1: a tab in the indentation at 'b', wish spaces",
    "a:\n  b: 1\n \tc: 2\n": "c.yaml:3:2: a tab in the indentation at 'c', wish spaces",
    "a: b: c\n": "c.yaml:1:5: a ':' where no key can be at 'a', wish YAML 1.2",
    "a: [1, 2\nb: 3\n": "c.yaml:1:4: a [ that is not closed, or a missing comma at 'a', wish YAML 1.2",
    "a: 'x\nb: 1\n": "c.yaml:1:4: a quote that is not closed at 'a', wish YAML 1.2",
    "a:\n  b: 1\n c: 2\n": "c.yaml:3:2: a line that does not line up",
    "a: 1\nb\nc: 2\n": "c.yaml:2:1: a line without 'key: value'",
    "a: *q\n": "c.yaml:1:4: a: alias *q of an unknown anchor",
    "a: &q [*q]\n": "c.yaml:1:8: a[0]: alias *q inside its own anchor",
    "a: !!python/object/apply:os.system [ls]\n": "c.yaml:1:4: a: the tag !!python/object/apply:os.system, wish",
    "a: !mine 3\n": "c.yaml:1:4: a: the tag !mine, wish plain YAML",
    "a: !!int x\n": "c.yaml:1:4: a: 'x' under the tag !!int",
    "a: 1\n---\nb: 2\n": "c.yaml:2:1: a second document, wish one a file",
    "%YAML 1.1\n---\na: yes\n": "c.yaml:2:1: YAML 1.1, wish YAML 1.2",
    "a: 1\nb: \x00\n": "c.yaml:2:4: the character '\\x00' at 'b', wish printable text",
    "a: 1\nb: \ufffe\n": "c.yaml:2:4: the character '\\ufffe' at 'b', wish printable text",
    'a: "\\UFFFFFFFF"\n': "c.yaml:1:2: not YAML",
    "1: a\n": "c.yaml:1:1: the key 1, wish text as a key (write it in quotes)",
    "? [a]\n: b\n": "c.yaml:1:3: a key that is not text, wish text as a key",
    "a: {<<: 3}\n": "c.yaml:1:9: a.<<: a merge of what is no mapping".replace("a.<<", "a.'<<'"),
    "": "c.yaml:1:1: an empty file, wish a mapping",
    "# nothing\n": "c.yaml:1:1: an empty file, wish a mapping",
    "- a\n": "c.yaml:1:1: a list of 1, wish a mapping",
    "format: 2\n": "c.yaml:1:9: format: format 2, wish at most 1 (written by a newer attnlib)",
    "format: one\n": "c.yaml:1:9: format: 'one', wish a whole number, now 1",
    "format: true\n": "c.yaml:1:9: format: true, wish a whole number",
    "extends: 3\n": "c.yaml:1:10: extends: 3, wish a file name, or a list of them",
    "a: " + "9" * 5000: "c.yaml:1:4: a: a number of 5000 digits",
    "a: " + "[" * 100: "c.yaml:1:64: a: nested too deep, wish at most 60 levels",
    "a: [" + "1," * 20_001 + "]": "c.yaml:",
    "a: 1\n" + "!" * 200_000: "c.yaml:2:1: a line of 100,000 characters, wish it cut",
    "{" * 5000: "c.yaml:1:2: a key that is not text, wish text as a key",
    "a: &x 1\nb: [" + "*x, " * 201 + "]\n": "c.yaml:2:805: b[200]: too many aliases, wish at most 200",
}


@pytest.mark.parametrize("text", BROKEN, ids=lambda text: ascii(text[:24]))
def test_broken_text_is_one_clear_error(text: str) -> None:
    found = error_of(text)
    assert found.startswith(BROKEN[text]), found
    assert "\n" not in found


def test_alias_bomb_is_cheap() -> None:
    layers = "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi"))
    assert "too many" in error_of("a: &a [x, x, x, x, x, x, x, x, x]\n" + layers)


def test_faults_that_do_not_break_the_text_come_together() -> None:
    assert error_of("a: 1\na: 2\nb: !x 3\n2: 4\n").count("\n") == 2


def test_extends_merges_deeply_and_kinds_replace(tmp_path: Path) -> None:
    write_files(
        tmp_path,
        base="m: {kind: rms, eps: 1, deep: {a: 1, b: 2}, list: [1, 2]}\nn: {kind: rms, eps: 1}\no: rms\n",
        child="extends: base.yaml\nm: {eps: 2, deep: {b: 3}, list: [3]}\nn: {kind: layer}\no: {eps: 5}\n",
    )
    tree, marks = load_tree(tmp_path / "child.yaml")
    assert tree == {
        "m": {"kind": "rms", "eps": 2, "deep": {"a": 1, "b": 3}, "list": [3]},
        "n": {"kind": "layer"},
        "o": {"kind": "rms", "eps": 5},
    }
    assert marks.at("m.deep.a") == Mark(str(tmp_path / "base.yaml"), 1, 34)
    assert marks.at("m.deep.b") == Mark(str(tmp_path / "child.yaml"), 2, 23)


def test_extends_takes_a_list_where_the_later_wins(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write_files(tmp_path, a="x: 1\ny: 1\n", c="extends: [a, sub/b.yaml]\nz: 3\n")
    write_files(tmp_path / "sub", b="extends: ../a.yaml\ny: 2\n")
    assert load_tree(tmp_path / "c.yaml")[0] == {"x": 1, "y": 2, "z": 3}


def test_extends_in_a_circle_names_the_circle(tmp_path: Path) -> None:
    write_files(tmp_path, a="k: 1\nextends: b.yaml\n", b="extends: ./a.yaml\n")
    with pytest.raises(SpecError, match=r"b\.yaml:1:10: extends: a circle: a\.yaml -> b\.yaml -> a\.yaml"):
        load_tree(tmp_path / "a.yaml")


def test_many_small_extends_are_bounded(tmp_path: Path) -> None:
    write_files(tmp_path, **{f"f{n}": f"extends: [f{n + 1}.yaml, f{n + 1}.yaml]\n" for n in range(12)}, f12="a: 1\n")
    with pytest.raises(SpecError, match="too many files, wish at most 50"):
        load_tree(tmp_path / "f0.yaml")


def test_missing_files_name_the_asking_line_and_a_near_name(tmp_path: Path) -> None:
    write_files(tmp_path, bert="a: 1\n", child="b: 2\nextends: betr.yaml\n")
    with pytest.raises(SpecError, match=r"child\.yaml:2:10: extends: no such file 'betr.yaml', .*did you mean 'bert.yaml'"):
        load_tree(tmp_path / "child.yaml")
    with pytest.raises(SpecError, match=r"no such file .*did you mean 'bert.yaml'"):
        load_tree(tmp_path / "bet.yaml")
    with pytest.raises(SpecError, match="a folder, wish a file"):
        load_tree(tmp_path)


def test_files_that_are_not_text(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(SpecError, match=r"x\.yaml:2:4: the byte 0xff is not UTF-8, wish UTF-8 text"):
        load_tree(path)
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\n")
    assert load_tree(path)[0] == {"a": 1}
    path.write_bytes(b"#" * 1_000_001)
    with pytest.raises(SpecError, match="more than 1 MB"):
        load_tree(path)
    os.mkfifo(tmp_path / "pipe.yaml")
    for name in (tmp_path / "pipe.yaml", "a\0b", "x" * 5000):
        with pytest.raises(SpecError):
            load_tree(name)


def test_overrides_set_keys_items_and_whole_values() -> None:
    text = "a: {b: [{c: 1}, {c: 2}], kind: rms, d: 1}\nn: rms\n"
    assert tree_of(text, "a.b.1.c=5", "a.b[0].c=1e-3")["a"]["b"] == [{"c": 1e-3}, {"c": 5}]
    assert tree_of(text, "a.b=[1, {x: y}]")["a"]["b"] == [1, {"x": "y"}]
    assert tree_of(text, "a.d=")["a"]["d"] is None
    assert tree_of(text, "a.d= a=b ")["a"]["d"] == "a=b"
    assert tree_of(text, "n.eps=2")["n"] == {"kind": "rms", "eps": 2}
    assert tree_of(text, "a=layer")["a"] == "layer"
    assert tree_of(text, "p.q.r=1")["p"] == {"q": {"r": 1}}


def test_overrides_are_marked_by_themselves() -> None:
    _, marks = parse_tree("a:\n  b: 1\n", "c.yaml", ["a.b=2", "x.y=3"])
    assert str(marks.at("a.b")) == "command line: a.b=2"
    assert str(marks.at("a")) == "c.yaml:1:1"
    assert str(marks.at("x", key=True)) == "command line: x.y=3"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a", "command line: a: no 'key=value', wish an override such as model.d_model=64"),
        ("=3", "command line: =3: no 'key=value'"),
        ("a..b=3", "command line: a..b=3: the key 'a..b', wish keys joined by dots"),
        ("a.l.7=3", "command line: a.l.7=3: a.l.7: no such place in a list, wish 0 to 1"),
        ("a.l.x=3", "command line: a.l.x=3: a.l.x: no such place in a list, wish 0 to 1"),
        ("a.b.c=3", "command line: a.b.c=3: a.b: 1, wish a mapping to set a key in"),
        ("a[0]=3", "command line: a[0]=3: a: the index [0], wish a key"),
        ("a.b=[1", "command line: a.b=[1: a [ that is not closed"),
        ("a.b=!!python/none", "command line: a.b=!!python/none: the tag !!python/none"),
        ("a.b=\x00", "command line: a.b=\\x00: the character"),
        ("extends=x", "command line: extends=x: extends: an override of extends, wish it in a file"),
        ("format=9", "command line: format=9: format: format 9, wish at most 1"),
    ],
)
def test_broken_overrides_are_one_clear_error(text: str, error: str) -> None:
    found = error_of("a: {b: 1, l: [1, 2]}\n", text)
    assert found.startswith(error), found


def test_bundled_configs_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny").mkdir()
    write_files(tmp_path / "tiny", gpt="a: 1\n", bert="extends: gpt.yaml\nb: 2\n")
    monkeypatch.setattr(attnlib.config.bundled, "config_folder", lambda: tmp_path)
    assert config_names() == ["tiny/bert", "tiny/gpt"]
    assert config_path("tiny/gpt") == config_path("tiny/gpt.yaml") == tmp_path / "tiny" / "gpt.yaml"
    assert load_tree("tiny/bert")[0] == {"a": 1, "b": 2}
    assert tree_of("extends: tiny/gpt\nc: 3\n") == {"a": 1, "c": 3}
    for name in ("tiny/gtp", "../secret", "tiny"):
        with pytest.raises(SpecError, match="did you mean 'tiny/gpt'" if name == "tiny/gtp" else "no such config"):
            config_path(name)


@pytest.mark.parametrize("installed", [False, True])
def test_configs_lie_in_the_wheel_or_beside_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    home = tmp_path / "attnlib" if installed else tmp_path
    for folder in (tmp_path / "attnlib" / "config", tmp_path / "configs", home / "configs"):
        folder.mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(attnlib.config.bundled, "__file__", str(tmp_path / "attnlib" / "config" / "bundled.py"))
    if not installed:
        assert config_folder() == tmp_path / "attnlib" / "configs"  # a stranger's configs beside site-packages
        (tmp_path / "pyproject.toml").touch()
    assert config_folder() == home / "configs"


leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
keys = st.text() | st.sampled_from(["<<", "extends1", "yes", "1", "null", "~", "a b", "", "-", "?", "="])
trees = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(keys, trees, min_size=1, max_size=4))
def test_written_yaml_reads_back_the_same(tree: dict[str, Any]) -> None:
    tree = {f"k{key}": value for key, value in tree.items()}
    found = tree_of(to_yaml(tree))
    assert found == tree and repr(found) == repr(tree)


def test_write_file_is_read_by_load_tree_and_leaves_no_part(tmp_path: Path) -> None:
    tree = {"format": 1, "a": {"b": [1, 1.0, True, None, "1"], "c": {}}, "d": []}
    write_file(tree, tmp_path / "c.yaml")
    write_file(tree, tmp_path / "c.yaml")
    assert load_tree(tmp_path / "c.yaml")[0] == tree
    assert [p.name for p in tmp_path.iterdir()] == ["c.yaml"]
    with pytest.raises(SpecError, match="cannot be written"):
        write_file(tree, tmp_path / "none" / "c.yaml")
