"""An exhibit: what one model did on one text, as a page shows it; and the values that the page's script reads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from attnlib.inspect.explanations.result import Explanation
from attnlib.inspect.figures import Figures, figures_of_map
from attnlib.inspect.heads import HeadReport
from attnlib.inspect.maps import AttentionMap, visible
from attnlib.inspect.packing import halves, levels, packed, planes, rounded, script_json, wholes
from attnlib.inspect.reading import Side
from attnlib.inspect.steps import Steps
from attnlib.inspect.tiled import TiledMap, tiles

EXACT_CELLS = 1 << 21  # up to here every weight travels as float16: about 4 MiB before compression
BYTE_CELLS = 1 << 22  # up to here as one byte; beyond, tiles
LONG_BYTES = 1_850_000  # the page of a long text, beside its frame
COARSEST = 64  # tiles along a side that are left at least when a page grows too long
FINE_CELLS = 1 << 20  # up to here tiles have 255 levels, beyond 48, which compress well
TILES = 256  # most tiles along one side of a long map

Map = AttentionMap | TiledMap


@dataclass(frozen=True, eq=False)
class Exhibit:
    """What one model did on one text.

    maps:         of its attentions, in the order of the model.
    name:         what tells it from another beside it.
    sides:        the texts that were read, with their words; tokens without one are shown as they are.
    steps:        what the model gave for the next token, where it writes.
    explanations: what each token had to do with an answer, by as many methods as you like.
    figures:      path of an attention -> figures of its heads; made from the maps where missing.
    report:       what kind of head each is, beside its baseline.
    """

    maps: Sequence[Map]
    name: str = ""
    sides: Sequence[Side] = ()
    steps: Steps | None = None
    explanations: Sequence[Explanation] = ()
    figures: dict[str, Figures] = field(default_factory=dict)
    report: HeadReport | None = None


class _Texts:
    """The texts of an exhibit, each once: tokens, and words where a side with these tokens is known."""

    def __init__(self, sides: Sequence[Side]) -> None:
        self.numbers: dict[tuple[str, ...], int] = {}
        self.words: dict[str, Any] = {}
        for side in sides:
            self.of(side.tokens, side)

    def of(self, tokens: Sequence[str], side: Side | None = None) -> int:
        number = self.numbers.setdefault(tuple(map(visible, tokens)), len(self.numbers))
        if side is not None and str(number) not in self.words:
            self.words[str(number)] = words(side)
        return number


def words(side: Side) -> dict[str, Any]:
    """A side's text cut at its words: `parts` = gap, word, gap, word, ..., gap; `of` = the word of each token or -1."""
    parts, at = [], 0
    of = [-1] * len(side)
    for number, word in enumerate(side.words):
        parts += [_clean(side.text[at : word.span[0]]), _clean(word.text)]
        at = max(at, word.span[1])
        for column in word.columns:
            of[column] = number
    return {"parts": [*parts, _clean(side.text[at:])], "of": of}


def _clean(text: str) -> str:
    """Text with line ends, tabs and spaces as they are, and all else that cannot be seen written out."""
    return "".join(part if part.isspace() else visible(part, spaces=False) for part in re.split(r"([ \t\n]+)", text) if part)


def exhibit_data(one: Exhibit, share: int = 1) -> dict[str, Any]:
    """What the page reads: texts once each, maps, and groups of layers as they come; `share`: of so many exhibits."""
    texts = _Texts([*one.sides, *(side for found in one.explanations for side in found.sides)])
    groups: dict[str, list[int]] = {}
    entries = []
    side, exact = _plan([m for m in one.maps if isinstance(m, AttentionMap)], share)
    fine = sum(m.tiles.size for m in one.maps if isinstance(m, TiledMap)) * share <= FINE_CELLS
    for index, m in enumerate(one.maps):
        label, layer = m.place
        groups.setdefault(label, []).append(index)
        entry: dict[str, Any] = {
            "name": visible(m.name),
            "layer": layer,
            "cross": m.name.rpartition(".")[2] == "cross",
            "texts": [texts.of(m.query_tokens), texts.of(m.key_tokens)],
            "numbers": list(m.numbers),
        }
        figures = one.figures.get(m.name) or (figures_of_map(m) if isinstance(m, AttentionMap) else {})
        entry["figures"] = {name: rounded(values, 4) for name, values in figures.items()}
        entry["scores"] = {} if one.report is None else _scores(one.report, m)
        entry |= _weights(m, side, exact) if isinstance(m, AttentionMap) else _tiled(m, 255 if fine else 48)
        entries.append(entry)
    _fit(entries, one.maps, texts, LONG_BYTES // share, 255 if fine else 48)
    return {
        "name": visible(one.name, spaces=False),
        "groups": [{"label": label, "maps": members} for label, members in groups.items()],
        "maps": entries,
        "steps": None if one.steps is None else {**one.steps.tree(), "text": texts.of(one.steps.tokens)},
        "explanations": [_explained(found, texts) for found in one.explanations],
        "texts": [list(text) for text in texts.numbers],
        "words": texts.words,
    }


def _plan(maps: Sequence[AttentionMap], share: int) -> tuple[int, bool]:
    """(most cells along a side, whether they are float16) for all maps of a page together."""
    sizes = [one.weights.shape for one in maps]
    longest = max((max(q, k) for _, q, k in sizes), default=1)
    cells = share * sum(h * q * k for h, q, k in sizes)
    if cells <= BYTE_CELLS:
        return longest, cells <= EXACT_CELLS
    side = TILES
    while side > 16 and share * sum(h * min(q, side) * min(k, side) for h, q, k in sizes) > BYTE_CELLS:
        side -= 8
    return side, False


def _weights(one: AttentionMap, side: int, exact: bool) -> dict[str, Any]:
    """Weights [H, Q, K] as text, with the shape they travel in, the tokens a tile spans, and each head's peak."""
    steps = [-(-size // side) for size in one.weights.shape[1:]]
    cells = tiles(one.weights, steps[0], steps[1])
    if exact:
        cells = cells.astype("<f2")
    peaks = cells.astype(np.float64).max(axis=(1, 2))
    data = packed(planes(cells)) if exact else levels(cells, peaks)
    return {"shape": list(cells.shape), "steps": steps, "exact": exact, "peaks": rounded(peaks), "data": data}


def _tiled(one: TiledMap, steps: int) -> dict[str, Any]:
    """Tiles as bytes; targets as keys and float16 weights, rows as float16."""
    entry = _tiles(one, steps)
    if one.tops:
        entry["tops"] = {
            str(place): {
                "count": found.keys.shape[1],
                "keys": wholes(found.keys),
                "weights": halves(found.weights),
                "rest": halves(np.maximum(found.given - found.weights.sum(1), 0.0)),
            }
            for place, found in one.tops.items()
        }
    if one.rows:
        numbers = sorted(one.rows)
        entry["rows"] = {"numbers": numbers, "data": halves(np.stack([one.rows[number] for number in numbers]))}
    return entry


def _tiles(one: TiledMap, steps: int) -> dict[str, Any]:
    peaks = one.tiles.max(axis=(1, 2))
    data = levels(one.tiles, peaks, steps)
    shape = list(one.tiles.shape)
    return {"shape": shape, "steps": list(one.steps), "exact": False, "peaks": rounded(peaks), "data": data}


def _fit(entries: list[dict[str, Any]], maps: Sequence[Map], texts: _Texts, most: int, steps: int) -> None:
    """Tiles doubled until the page of a long text is short enough: its targets and rows are what was asked for."""
    tiled = {at: one for at, one in enumerate(maps) if isinstance(one, TiledMap)}
    left = most - len(script_json([[*texts.numbers], texts.words])) if tiled else most
    while tiled and sum(len(script_json(entries[at])) for at in tiled) > left:
        if max(max(one.tiles.shape[1:]) for one in tiled.values()) < 2 * COARSEST:
            return
        tiled = {at: one.coarser() for at, one in tiled.items()}
        for at, one in tiled.items():
            entries[at] |= _tiles(one, steps)


def _scores(report: HeadReport, one: Map) -> dict[str, Any]:
    """The report's scores of one attention by kind, [H] each beside their baselines, and the heads named after the kind."""
    found: dict[str, Any] = {}
    for kind in report.kinds:
        by_head = {score.head: score for score in report.best(kind) if score.path == one.name}
        if by_head:
            scores = [by_head[number] for number in one.numbers if number in by_head]
            named = {score.name for score in report.named(kind)}
            found[kind] = {
                "values": rounded([score.value for score in scores], 4),
                "baselines": rounded([score.baseline for score in scores], 4),
                "named": [place for place, score in enumerate(scores) if score.name in named],
            }
    return found


def _explained(one: Explanation, texts: _Texts) -> dict[str, Any]:
    """An explanation: its targets by name, and for each side [N, T] scores as float16 of the largest."""
    sides = []
    for side in one.sides:
        scores = one.scores[side.name]
        top = float(np.abs(scores).max()) or 1.0
        shares = np.ascontiguousarray(scores / top, dtype="<f2")
        sides.append({"name": side.name, "text": texts.of(side.tokens, side), "top": rounded(top), "data": halves(shares)})
    return {
        "method": one.method,
        "signed": one.signed,
        "targets": [" ".join(map(visible, name.split(" "))) for name in one.targets],
        "columns": list(one.columns),
        "logprobs": rounded(one.logprobs, 4),
        "sides": sides,
    }
