"""One self-contained offline HTML page that shows every head of every layer, and one head to its exact weights."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import zlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from attnlib.errors import UsageError
from attnlib.inspect.files import write_whole
from attnlib.inspect.maps import Array, AttentionMap, visible

__all__ = ["AttentionMap", "attention_page", "write_attention_page"]

EXACT_CELLS = 1 << 21  # up to here every weight travels as float16: about 4 MiB before compression
BYTE_CELLS = 1 << 22  # up to here as one byte; beyond, tiles
TILES = 256  # most tiles along one side of a long map
_SCRIPTS = ("data.js", "grid.js", "head.js", "app.js")


def attention_page(maps: Sequence[AttentionMap], *, title: str) -> str:
    """HTML text of a page that opens without a network: a grid of layers x heads, and each head in full.

    Short texts carry their weights as float16. Above 2 million cells in all they travel as bytes,
    `peak * (b / 255)**2`; above 4 million as such bytes of the mean of tiles, at most 256 a side, and the page says so.
    Raises UsageError when there is no map.
    """
    if not maps:
        raise UsageError("attention page", "there are no maps", "wanted at least one")
    web = resources.files("attnlib.inspect") / "web"
    style = (web / "page.css").read_text(encoding="utf-8")
    body = "\n".join((web / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    script = f'"use strict";\n(() => {{\n{body}}})();\n'
    name = visible(title, spaces=False).strip() or "Attention"
    parts = {
        "policy": f"default-src 'none'; img-src data:; style-src {_digest(style)}; script-src {_digest(script)}; "
        "base-uri 'none'; form-action 'none'",
        "title": html.escape(name),
        "style": style,
        "script": script,
        "data": _json({"title": name, **_data(maps)}),
    }
    template = (web / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)  # one pass: no text is read twice


def write_attention_page(maps: Sequence[AttentionMap], path: str | Path, *, title: str) -> None:
    """Write `attention_page` to `path`, whole or not at all. Raises UsageError when the file cannot be written."""
    write_whole(path, attention_page(maps, title=title).encode("utf-8"))


def _digest(text: str) -> str:
    """The source expression by which a content security policy lets exactly this text run."""
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii") + "'"


def _json(value: Any) -> str:
    """JSON that may stand in a script element: no `<` to close it with, nothing but ASCII."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _data(maps: Sequence[AttentionMap]) -> dict[str, Any]:
    """What the page reads: the texts once each, the maps, and the groups of layers in the order of their coming."""
    texts: dict[tuple[str, ...], int] = {}
    groups: dict[str, list[int]] = {}
    entries = []
    side, exact = _plan(maps)
    for index, one in enumerate(maps):
        label, layer = one.place
        groups.setdefault(label, []).append(index)
        q, k = (texts.setdefault(tuple(map(visible, t)), len(texts)) for t in (one.query_tokens, one.key_tokens))
        entries.append({"name": visible(one.name), "layer": layer, "texts": [q, k], **_weights(one.weights, side, exact)})
    return {
        "texts": [list(text) for text in texts],
        "groups": [{"label": label, "maps": members} for label, members in groups.items()],
        "maps": entries,
    }


def _plan(maps: Sequence[AttentionMap]) -> tuple[int, bool]:
    """(most cells along a side, whether they are float16) for all maps of a page together."""
    sizes = [one.weights.shape for one in maps]
    longest = max(max(q, k) for _, q, k in sizes)
    cells = sum(h * q * k for h, q, k in sizes)
    if cells <= BYTE_CELLS:
        return longest, cells <= EXACT_CELLS
    side = TILES
    while side > 16 and sum(h * min(q, side) * min(k, side) for h, q, k in sizes) > BYTE_CELLS:
        side -= 8
    return side, False


def _weights(weights: Array, side: int, exact: bool) -> dict[str, Any]:
    """Weights [H, Q, K] as text, with the shape they travel in, the tokens a tile spans, and each head's peak."""
    steps = [-(-size // side) for size in weights.shape[1:]]
    cells = tiles(weights, steps[0], steps[1])
    if exact:
        cells = cells.astype("<f2")
        packed = cells.view(np.uint8).reshape(-1, 2).T.tobytes()  # low bytes, then high: the high ones compress
    peaks = cells.astype(np.float64).max(axis=(1, 2))
    if not exact:
        levels = np.sqrt(cells / np.where(peaks > 0, peaks, 1.0)[:, None, None])
        packed = np.rint(255 * levels).astype(np.uint8).tobytes()
    return {
        "shape": list(cells.shape),
        "steps": steps,
        "exact": exact,
        "peaks": [float(f"{peak:.6g}") for peak in peaks],
        "data": base64.b64encode(zlib.compress(packed, 9)).decode("ascii"),
    }


def tiles(weights: Array, rows: int, columns: int) -> Array:
    """Mean of each tile of `rows` x `columns` cells, [H, Q, K] -> [H, ceil(Q/rows), ceil(K/columns)]."""
    if rows == columns == 1:
        return weights
    starts = [np.arange(0, size, step) for size, step in zip(weights.shape[1:], (rows, columns), strict=True)]
    counts = [np.diff(np.append(s, size)) for s, size in zip(starts, weights.shape[1:], strict=True)]
    heads = [  # one head at a time: sums of a long map in float32 should not all live at once
        np.add.reduceat(np.add.reduceat(head, starts[0], axis=0, dtype=np.float32), starts[1], axis=1) for head in weights
    ]
    means: Array = np.stack(heads) / (counts[0][:, None] * counts[1][None, :])  # the last tiles are smaller
    return means
