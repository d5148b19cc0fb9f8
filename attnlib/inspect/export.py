"""What was seen, as files for other programs: CSV, NPZ and safetensors of maps, summaries, explanations and head reports.

A Sheet holds the same twice: as arrays by name with a JSON text `about` that says what they are, and as rows of a table.

    maps           PATH: float32 [h, Q, K]; rows of the weights that are not 0; of a long text means of tiles
    summaries      PATH.received, PATH.entropy, ...: as `attnlib.inspect.summaries` has them
    explanations   METHOD.SIDE: float64 [N, t], targets and tokens
    head reports   value, baseline, deviation, queries, offset: [h, kinds], NaN (offset: 0) where there is none
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnlib.errors import UsageError
from attnlib.inspect.explanations.result import Explanation
from attnlib.inspect.files import write_whole
from attnlib.inspect.heads import HeadReport
from attnlib.inspect.maps import AttentionMap
from attnlib.inspect.summaries import Summary
from attnlib.inspect.tiled import TiledMap

Cell = str | int | float | None
TOKENS = ("received",)  # measures of keys; the others of summaries are of queries


@dataclass(frozen=True, eq=False)
class Sheet:
    """arrays: by name. about: what they are, as JSON has it. rows: a table under `columns`, made when asked for."""

    arrays: dict[str, NDArray[Any]]
    about: dict[str, Any]
    columns: tuple[str, ...]
    rows: Callable[[], Iterable[Sequence[Cell]]]


def write_csv(sheet: Sheet, path: str | Path) -> None:
    """The table with a header, UTF-8; numbers to nine digits, empty where there is none."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(sheet.columns)
    table.writerows([_cell(value) for value in row] for row in sheet.rows())
    write_whole(path, text.getvalue().encode("utf-8", "backslashreplace"))


def write_npz(sheet: Sheet, path: str | Path) -> None:
    """The arrays, compressed, and `about` as a text; read by `numpy.load(path)` without pickle."""
    data = io.BytesIO()
    np.savez_compressed(data, **sheet.arrays, about=np.array(json.dumps(sheet.about)))  # type: ignore[arg-type]
    write_whole(path, data.getvalue())


def write_safetensors(sheet: Sheet, path: str | Path) -> None:
    """The arrays as tensors, and `about` in the metadata."""
    from safetensors.numpy import save

    arrays = {name: np.ascontiguousarray(value) for name, value in sheet.arrays.items()}
    write_whole(path, save(arrays, metadata={"about": json.dumps(sheet.about)}))


WRITERS: dict[str, Callable[[Sheet, str | Path], None]] = {
    "csv": write_csv,
    "npz": write_npz,
    "safetensors": write_safetensors,
}


def sheet_of_maps(found: Sequence[AttentionMap | TiledMap]) -> Sheet:
    """Attention weights with the tokens of their axes; of a long text the means of tiles, named by their first tokens."""
    _need(found, "maps")
    maps = [one.overview() if isinstance(one, TiledMap) else one for one in found]
    steps = [list(one.steps) if isinstance(one, TiledMap) else [1, 1] for one in found]

    def rows() -> Iterator[Sequence[Cell]]:
        for one in maps:
            for h, q, k in zip(*(index.tolist() for index in one.weights.nonzero())):
                names = one.query_tokens[q], one.key_tokens[k]
                yield one.name, one.numbers[h], q, k, *names, float(one.weights[h, q, k])

    about = {"what": "attention weights [head, query, key], means of tiles of so many tokens", "maps": [
        {"name": one.name, "heads": list(one.numbers), "tile": step, "query_tokens": one.query_tokens,
         "key_tokens": one.key_tokens}
        for one, step in zip(maps, steps, strict=True)
    ]}  # fmt: skip
    columns = ("attention", "head", "query", "key", "query_token", "key_token", "weight")
    return Sheet({one.name: one.weights.astype("f4") for one in maps}, about, columns, rows)


def sheet_of_summaries(found: Sequence[tuple[Summary, Sequence[str], Sequence[str]]]) -> Sheet:
    """Summaries, each with the tokens of its queries and of its keys."""
    _need(found, "summaries")
    arrays: dict[str, NDArray[Any]] = {}
    for one, _, _ in found:
        parts = {name: getattr(one, name) for name in (*_MEASURES, "top_keys", "top_weights", "flow")}
        arrays |= {f"{one.path}.{name}": value.numpy() for name, value in parts.items() if value is not None}

    def rows() -> Iterator[Sequence[Cell]]:
        for one, queries, keys in found:
            for place, head in enumerate(one.heads):
                yield from _measured(one, place, head, queries, keys)

    about = {"what": "sums over attention weights", "summaries": [
        {"name": one.path, "heads": list(one.heads), "windows": list(one.windows), "query_tokens": list(queries),
         "key_tokens": list(keys)}
        for one, queries, keys in found
    ]}  # fmt: skip
    return Sheet(arrays, about, ("attention", "head", "measure", "place", "token", "key", "value"), rows)


_MEASURES = ("received", "given", "entropy", "sink", "distance", "outside", "outside_most")


def _measured(one: Summary, place: int, head: int, queries: Sequence[str], keys: Sequence[str]) -> Iterator[Sequence[Cell]]:
    """The rows of one head."""
    for name in _MEASURES:
        value = getattr(one, name)
        if value is None:
            continue
        wide = name.startswith("outside")
        tokens = keys if name in TOKENS else queries
        for at, number in enumerate(value[place].tolist()):
            yield one.path, head, name, one.windows[at] if wide else at, None if wide else tokens[at], None, number
    for query, (places, weights) in enumerate(zip(one.top_keys[place].tolist(), one.top_weights[place].tolist())):
        for key, weight in zip(places, weights):
            if key >= 0:
                yield one.path, head, "target", query, queries[query], key, weight


def sheet_of_explanations(found: Sequence[Explanation]) -> Sheet:
    """Explanations of one question by several methods."""
    _need(found, "explanations")

    def rows() -> Iterator[Sequence[Cell]]:
        for one in found:
            for number, target in enumerate(one.targets):
                for side in one.sides:
                    words = {column: word.text for word in side.words for column in word.columns}
                    for at, score in enumerate(one.scores[side.name][number].tolist()):
                        span = side.spans[at] or (None, None)
                        yield one.method, target, side.name, at, side.tokens[at], words.get(at), *span, score

    arrays = {f"{one.method}.{name}": scores for one in found for name, scores in one.scores.items()}
    about = {"what": "what tokens have to do with targets [target, token]", "explanations": [one.tree() for one in found]}
    return Sheet(arrays, about, ("method", "target", "side", "place", "token", "word", "start", "end", "score"), rows)


def sheet_of_heads(report: HeadReport) -> Sheet:
    """A head report."""
    names, kinds = list(dict.fromkeys(one.name for one in report.scores)), list(report.kinds)
    numbers = ("value", "baseline", "deviation", "queries", "offset")
    arrays = {name: np.full((len(names), len(kinds)), 0 if name in ("queries", "offset") else np.nan,
                            "i8" if name in ("queries", "offset") else "f8") for name in numbers}  # fmt: skip
    for one in report.scores:
        for name in numbers:
            if getattr(one, name) is not None:
                arrays[name][names.index(one.name), kinds.index(one.kind)] = getattr(one, name)

    def rows() -> Iterator[Sequence[Cell]]:
        named = {(one.name, kind) for kind in kinds for one in report.named(kind)}
        for one in report.scores:
            clear = int((one.name, one.kind) in named)
            yield one.path, one.head, one.kind, *(getattr(one, name) for name in numbers), clear

    about = {"what": "scores of heads [head, kind]", "heads": names, "kinds": kinds, "texts": report.texts,
             "tokens": report.tokens, "named": report.tree()["named"]}  # fmt: skip
    return Sheet(arrays, about, ("attention", "head", "kind", *numbers, "named"), rows)


def _need(found: Sequence[object], what: str) -> None:
    if not found:
        raise UsageError("export", f"there are no {what}", "wanted at least one")


def _cell(value: Cell) -> Cell:
    return "" if value is None else f"{value:.9g}" if isinstance(value, float) else value
