"""Reading and splitting data; errors name file, line and what is wished."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attnlib.errors import DataError
from attnlib.spec import SpecErrors, read, write
from attnlib.train.data import CSV, Data, JSONLines, Text

PAIRS = ("source", "target")


def lines(path: Path, *records: object) -> str:
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return str(path)


def test_every_kind_stands_in_the_slot() -> None:
    assert set(Data.kinds()) >= {"text", "jsonl", "csv"}


def test_a_running_text_is_held_out_at_its_end(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("line\n" * 20)
    splits = Text(path="book.txt", held_out=0.1).load(("text",), tmp_path)
    assert splits.train[0]["text"] + splits.held_out[0]["text"] == "line\n" * 20
    assert splits.held_out[0]["text"] == "line\n" * 2
    assert splits.held_out[0].origin.endswith("book.txt:19") and splits.train[0].running


def test_documents_are_parted_by_a_separator_and_know_their_lines(tmp_path: Path) -> None:
    (tmp_path / "docs.txt").write_text("a\nb\n---\nc\n---\n\n---\nd\n")
    splits = Text(path="docs.txt", separator="---", held_out=0).load(("text",), tmp_path)
    assert [row["text"] for row in splits.train] == ["a\nb\n", "c\n", "d\n"]
    assert [row.origin.rpartition(":")[2] for row in splits.train] == ["1", "4", "8"]
    (tmp_path / "blank.txt").write_text("one\ntwo\n\nthree\r\n\r\nfour")
    blank = Text(path="blank.txt", separator="", held_out=0).load(("text",), tmp_path)
    assert [row["text"] for row in blank.train] == ["one\ntwo\n", "three\r\n", "four"]


@pytest.mark.parametrize("held_out, count", [(300, 300), (0.1, 304), (0, 0)])
def test_rows_are_held_out_by_seed_and_never_trained_on(held_out: int | float, count: int) -> None:
    spec = JSONLines(path="question_formation.jsonl", held_out=held_out)
    splits, again = spec.load(PAIRS), spec.load(PAIRS)
    assert len(splits.held_out) == count and len(splits.train) == 3040 - count
    assert {r["source"] for r in splits.train}.isdisjoint(r["source"] for r in splits.held_out)
    assert splits == again
    if count:
        other = spec.replace(seed=1).load(PAIRS)
        assert [r.origin for r in other.held_out] != [r.origin for r in splits.held_out]


def test_held_out_words_never_occur_in_training() -> None:
    words = ("rent", "rents", "rented")
    spec = JSONLines(path="question_formation.jsonl", held_out=300, hold_out_words=words)
    splits = spec.load(PAIRS)
    assert len(splits.held_out) == 300 and len(splits.harder) > 100
    for row in [*splits.train, *splits.held_out]:
        assert not set(words) & {w for side in PAIRS for w in row[side].split()}
    assert all(set(words) & set(row["source"].split()) for row in splits.harder)
    with pytest.raises(DataError, match=r"data\.hold_out_words: \['xyzzy'\] occur in no row"):
        spec.replace(hold_out_words=("xyzzy",)).load(PAIRS)


def test_a_file_of_its_own_can_be_held_out(tmp_path: Path) -> None:
    lines(tmp_path / "a.jsonl", {"text": "x"}, {"text": "y"})
    lines(tmp_path / "b.jsonl", {"text": "z"})
    splits = JSONLines(path="a.jsonl", held_out_path="b.jsonl").load(("text",), tmp_path)
    assert [r["text"] for r in splits.train] == ["x", "y"] and [r["text"] for r in splits.held_out] == ["z"]


def test_columns_may_have_other_names_and_labels_may_be_whole_numbers(tmp_path: Path) -> None:
    lines(tmp_path / "r.jsonl", {"review": "good", "stars": 5}, {"review": "bad", "stars": True})
    [first, second] = (
        JSONLines(path="r.jsonl", text="review", label="stars", held_out=0).load(("text", "label"), tmp_path).train
    )
    assert dict(first.values) == {"text": "good", "label": "5"} and second["label"] == "true"


def test_csv_reads_quotes_line_breaks_and_tabs(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('text,label\n"one, two\nthree",x\nfour,y\n')
    rows = CSV(path="a.csv", held_out=0).load(("text", "label"), tmp_path).train
    assert [dict(r.values) for r in rows] == [{"text": "one, two\nthree", "label": "x"}, {"text": "four", "label": "y"}]
    assert [r.origin.rpartition(":")[2] for r in rows] == ["2", "4"]
    (tmp_path / "a.tsv").write_text("text\tlabel\na,b\tx\n")
    assert CSV(path="a.tsv", held_out=0).load(("text",), tmp_path).train[0]["text"] == "a,b"


@pytest.mark.parametrize(
    "content, said",
    [
        ('{"text": "a"}\n{"text": }\n', r"d\.jsonl:2:10: is no JSON: .*, each line must be one JSON object"),
        ("[" * 100_000 + "\n", r"d\.jsonl:1: is no JSON: too long a number or too deeply nested"),
        ('{"text": ' + "9" * 5000 + "}\n", r"d\.jsonl:1: is no JSON: too long a number"),
        ('["a"]\n', r"d\.jsonl:1: holds a list, each line must be one JSON object"),
        ('{"text": "a"}\n\n{"text": 3}\n', r"d\.jsonl:3: field 'text' holds a number, must be a string"),
        ('{"text": null}\n', r"d\.jsonl:1: field 'text' holds nothing \(null\), must be a string"),
        ('{"texts": "a"}\n', r"d\.jsonl:1: has no field 'text' among texts, it is the text \(did you mean 'texts'\?\)"),
        ('{"x": "a"}\n', r"d\.jsonl:1: has no field 'text' among x, .*\(name the column: data: \{text: \.\.\.\}\)"),
        ("", r"d\.jsonl: is empty, must hold text"),
        ('{"text": "a"}\n', r"leaves nothing to train on"),
    ],
)
def test_bad_json_lines_are_named(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "d.jsonl").write_text(content)
    with pytest.raises(DataError, match=said):
        JSONLines(path="d.jsonl", held_out=1).load(("text",), tmp_path)


@pytest.mark.parametrize(
    "content, said",
    [
        ("text,label\na\n", r"d\.csv:2: has 1 fields, the header names 2"),
        ("text\n", r"d\.csv: holds no rows"),
        ("text,label,text\na,b,c\n", r"d\.csv:1: names the column 'text' twice"),
        ('text,label\n"a,b\n', r"d\.csv:2: is no CSV: unexpected end of data"),
        ("txt,label\na,b\n", r"d\.csv:2: has no field 'text' among txt, label, .*did you mean 'txt'"),
    ],
)
def test_bad_tables_are_named(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "d.csv").write_text(content)
    with pytest.raises(DataError, match=said):
        CSV(path="d.csv", held_out=0).load(("text",), tmp_path)


def test_wrong_shares_and_wrong_kinds_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    for wrong, said in [(1.5, "fraction must be below 1"), (3, "a fraction below 1 is held out")]:
        with pytest.raises(DataError, match=said):
            Text(path="a.txt", held_out=wrong).load(("text",), tmp_path)
    with pytest.raises(DataError, match=r"text has no columns source, target, .*jsonl"):
        Text(path="a.txt").load(PAIRS, tmp_path)
    with pytest.raises(DataError, match=r"hold_out_words: are given for one running text"):
        Text(path="a.txt", hold_out_words=("x",)).load(("text",), tmp_path)


def test_a_data_tree_without_a_kind_is_a_text(tmp_path: Path) -> None:
    assert read(Data, {"path": "moby_dick.txt"}) == Text(path="moby_dick.txt")
    held = read(Data, {"kind": "jsonl", "path": "a.jsonl", "hold_out_words": ["rents"], "held_out": 300})
    assert held == JSONLines(path="a.jsonl", hold_out_words=("rents",), held_out=300)
    assert read(Data, write(held)) == held
    with pytest.raises(SpecErrors, match="held_out"):
        read(Data, {"path": "a.txt", "held_out": -1})


def test_csv_rows_end_at_line_ends_only_and_cells_may_be_long(tmp_path: Path) -> None:
    cell = "one\u2028two\x0bthree\x85" + "x" * 200_000
    (tmp_path / "a.csv").write_bytes(f"text\r\n{cell}\r\n".encode())
    [row] = CSV(path="a.csv", held_out=0).load(("text",), tmp_path).train
    assert row["text"] == cell


def test_words_are_held_out_whole_and_in_any_case(tmp_path: Path) -> None:
    lines(tmp_path / "w.jsonl", *({"text": t} for t in ("He Rents it", "rents.", "parents", "he rented", "currents")))
    splits = JSONLines(path="w.jsonl", held_out=0, hold_out_words=("rents",)).load(("text",), tmp_path)
    assert [row["text"] for row in splits.harder] == ["He Rents it", "rents."]
    assert len(splits.train) == 3


@pytest.mark.parametrize(("path", "kind"), [("rows.csv", "csv"), ("rows.TSV", "csv"), ("rows.jsonl", "jsonl")])
def test_a_table_is_not_read_as_plain_text(path: str, kind: str) -> None:
    with pytest.raises(SpecErrors, match=f"path.*is no plain text, wish kind: {kind}"):
        Text(path=path)
