"""Training data: the slot `data`, reading rows from .txt, JSON lines and CSV, and what is held out of training."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from attnlib.errors import DataError, nearest
from attnlib.spec import FieldError, Spec
from attnlib.text.files import find_data, read_text


@dataclass(frozen=True)
class Row:
    """One example as text: a value for each column an objective asked for, and where it stands (file:line).

    running: a stretch of running text, which begins and ends anywhere, rather than a document of its own.
    """

    values: Mapping[str, str]
    origin: str
    running: bool = False

    def __getitem__(self, column: str) -> str:
        return self.values[column]


@dataclass(frozen=True)
class Splits:
    """Rows to train on, rows held out of training, and rows held out because they contain a held-out word."""

    train: Sequence[Row]
    held_out: Sequence[Row]
    harder: Sequence[Row] = ()


class Data(Spec, slot="data", default="text"):
    """Which text to learn from.

    held_out:       a fraction (0.1) or a number of rows (300) kept from training for evaluation.
    held_out_path:  a file of its own to evaluate on, instead.
    hold_out_words: rows with any of these words, in any column, are kept from training as a harder split.
    seed:           draws the held-out rows; one running text is split at its end instead.
    """

    path: str
    held_out: Annotated[int | float, Field(ge=0)] = 0.1
    held_out_path: str | None = None
    hold_out_words: tuple[str, ...] = ()
    seed: int = 0

    def read(self, path: Path, columns: Sequence[str]) -> list[Row]:
        """All rows of the file with the columns asked for."""
        raise NotImplementedError

    def load(self, columns: Sequence[str], relative_to: str | Path | None = None) -> Splits:
        """Reads and splits. `columns`: what the objective needs, e.g. ("source", "target")."""
        rows = self.read(find_data(self.path, relative_to), columns)
        rows, harder = _apart(rows, self.hold_out_words)
        if self.held_out_path is not None:
            held_out = self.read(find_data(self.held_out_path, relative_to), columns)
            return self._checked(Splits(rows, held_out, harder))
        count = self._count(len(rows))
        places = np.sort(np.random.default_rng(self.seed).permutation(len(rows))[:count])
        held = set(places.tolist())
        train = [row for i, row in enumerate(rows) if i not in held]
        return self._checked(Splits(train, [rows[i] for i in places], harder))

    def _count(self, rows: int) -> int:
        if isinstance(self.held_out, float) and self.held_out >= 1:
            raise DataError("data.held_out", f"is {self.held_out}", "a fraction must be below 1",
                            "a number of rows is written without a point")  # fmt: skip
        return round(self.held_out * rows) if isinstance(self.held_out, float) else self.held_out

    def _checked(self, splits: Splits) -> Splits:
        if not splits.train:
            raise DataError(self.path, "leaves nothing to train on", "must hold more than what is held out",
                            "lower data.held_out or take words out of data.hold_out_words")  # fmt: skip
        if self.hold_out_words and not splits.harder:
            raise DataError("data.hold_out_words", f"{list(self.hold_out_words)} occur in no row of {self.path}",
                            "must be words of the data")  # fmt: skip
        return splits


class Text(Data, kind="text"):
    """A text file: one document, or several between lines that equal `separator` ("" = blank lines)."""

    separator: str | None = None

    @model_validator(mode="after")
    def _plain(self) -> Self:
        kind = {".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}.get(Path(self.path).suffix.lower())
        if kind is not None:
            raise FieldError("path", f"{self.path!r} is no plain text", f"wish kind: {kind}")
        return self

    def read(self, path: Path, columns: Sequence[str]) -> list[Row]:
        if tuple(columns) != ("text",):
            raise DataError("data.kind", f"text has no columns {_named(columns)}", "the objective needs them",
                            "use {kind: jsonl} or {kind: csv}")  # fmt: skip
        text, parts, start = read_text(path), [], 1
        if self.separator is None:
            return [Row({"text": text}, f"{path}:1", running=True)]
        for part in _between(text, self.separator):
            if part.strip():
                parts.append(Row({"text": part}, f"{path}:{start}"))
            start += part.count("\n") + 1
        return parts

    def load(self, columns: Sequence[str], relative_to: str | Path | None = None) -> Splits:
        if self.separator is not None or self.held_out_path is not None:
            return super().load(columns, relative_to)
        if self.hold_out_words:
            raise DataError("data.hold_out_words", "are given for one running text", "need rows to hold out",
                            "separate documents with data.separator")  # fmt: skip
        if not isinstance(self.held_out, float) and self.held_out:
            raise DataError("data.held_out", f"is {self.held_out}", "of one running text a fraction below 1 is held out")
        [row] = self.read(find_data(self.path, relative_to), columns)
        self._count(1)
        text = row["text"]
        cut = len(text) - round(len(text) * self.held_out)
        origin = f"{row.origin.rpartition(':')[0]}:{text.count(chr(10), 0, cut) + 1}"
        train, held_out = replace(row, values={"text": text[:cut]}), Row({"text": text[cut:]}, origin, running=True)
        return self._checked(Splits([train] if cut else [], [held_out] if cut < len(text) else []))


class Columns(Data):
    """Rows with named fields; `text`, `label`, `source`, `target` say which field plays the part."""

    text: str = "text"
    label: str = "label"
    source: str = "source"
    target: str = "target"

    def read(self, path: Path, columns: Sequence[str]) -> list[Row]:
        wanted = {column: str(getattr(self, column)) for column in columns}
        rows = [Row({c: _field(r, f, c, o) for c, f in wanted.items()}, o) for o, r in self.records(path)]
        if not rows:
            raise DataError(str(path), "holds no rows", "must hold at least one")
        return rows

    def records(self, path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """(file:line, fields) of each row."""
        raise NotImplementedError


class JSONLines(Columns, kind="jsonl"):
    """One JSON object a line."""

    def records(self, path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
        for number, line in enumerate(read_text(path).split("\n"), 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise _no_json(f"{path}:{number}:{error.colno}", error.msg) from error
            except (ValueError, RecursionError) as error:  # a number of thousands of digits, lists in lists in lists
                raise _no_json(f"{path}:{number}", "too long a number or too deeply nested") from error
            if not isinstance(record, dict):
                raise DataError(f"{path}:{number}", f"holds {_kind(record)}", "each line must be one JSON object")
            yield f"{path}:{number}", record


class CSV(Columns, kind="csv"):
    """A table with a header line; the delimiter is a comma, in a .tsv file a tab, unless given."""

    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = None

    def records(self, path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
        delimiter = self.delimiter or ("\t" if path.suffix == ".tsv" else ",")
        (_, header), *rows = _cells(read_text(path), delimiter, path)
        twice = next((name for name in header if header.count(name) > 1), None)
        if twice is not None:
            raise DataError(f"{path}:1", f"names the column {twice!r} twice", "each column needs a name of its own")
        for number, cells in rows:
            if len(cells) != len(header):
                raise DataError(f"{path}:{number}", f"has {len(cells)} fields", f"the header names {len(header)}",
                                "put a field that holds the delimiter in double quotes")  # fmt: skip
            yield f"{path}:{number}", dict(zip(header, cells))


def _cells(text: str, delimiter: str, path: Path) -> list[tuple[int, list[str]]]:
    """The cells of each row that is not empty, with the number of the line it begins on."""
    number, rows = 1, []
    before = csv.field_size_limit(2**31 - 1)  # a cell may hold a whole document
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for cells in lines:
            if cells:
                rows.append((number, cells))
            number = lines.line_num + 1  # a quoted cell may run over several lines
    except csv.Error as error:
        raise DataError(f"{path}:{lines.line_num}", f"is no CSV: {error}", "must be a table with a header") from error
    finally:
        csv.field_size_limit(before)
    return rows


def _no_json(origin: str, why: str) -> DataError:
    return DataError(origin, f"is no JSON: {why}", "each line must be one JSON object")


def _field(record: Mapping[str, Any], name: str, column: str, origin: str) -> str:
    if name not in record:
        hint = nearest(name, record) or f"name the column: data: {{{column}: ...}}"
        raise DataError(origin, f"has no field {name!r} among {_named(record)}", f"it is the {column}", hint)
    value: Literal[None] | Any = record[name]
    if column == "label" and isinstance(value, int):  # true and 3 are good labels; 0.5 is not a class
        return json.dumps(value)
    if not isinstance(value, str):
        raise DataError(origin, f"field {name!r} holds {_kind(value)}", "must be a string")
    return value


def _apart(rows: list[Row], words: Sequence[str]) -> tuple[list[Row], list[Row]]:
    """(rows without any of the words, rows with one): whole words, whatever their case."""
    if not words:
        return rows, []
    found = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)", re.IGNORECASE)
    with_word = [any(found.search(value) for value in row.values.values()) for row in rows]
    return [r for r, w in zip(rows, with_word) if not w], [r for r, w in zip(rows, with_word) if w]


def _between(text: str, separator: str) -> list[str]:
    return re.split(rf"^{re.escape(separator)}\r?(?:\n|\Z)", text, flags=re.MULTILINE)


def _named(names: Sequence[str] | Mapping[str, Any]) -> str:
    return ", ".join(map(str, names))


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a truth value", type(None): "nothing (null)"}
    return names.get(type(value), "a number")
