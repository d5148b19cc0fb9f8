"""Figures for papers and logs as PNG or SVG: attention maps, curves of loss and of faithfulness. Needs the extra `plots`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnlib.errors import UsageError
from attnlib.inspect.drawing import (
    BLUE,
    INK,
    LINES,
    ORANGE,
    SOFT,
    Form,
    bar,
    bare,
    blank,
    colours,
    drawn,
    name_axes,
    save,
    write,
)
from attnlib.inspect.faithful import SHARES, Curves
from attnlib.inspect.maps import Array, AttentionMap, visible
from attnlib.inspect.tiled import tiles

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABELLED = 40  # tokens up to which a side is written out
CELLS = 512  # most cells drawn along a side; beyond, means of tiles
PIXELS = 24e6  # most dots of a figure; beyond, fewer to the inch
_CELL, _GAP, _LETTER = 0.17, 0.16, 0.068  # inches: a labelled cell, between panels, a letter of a label


def attention_figure(
    maps: Sequence[AttentionMap],
    path: str | Path,
    *,
    title: str = "Attention",
    max_heads: int = 8,
    dpi: int = 144,
    form: Form = "png",
) -> None:
    """Draw the first `max_heads` heads of every map, a row a map and a column a head, and write it as PNG or SVG.

    Up to 40 tokens a side both axes name them; colours grow with the square root of the weight, their bar is beside.
    Raises UsageError without maps, without matplotlib, or when the file cannot be written.
    """
    if not maps:
        raise UsageError("attention figure", "there are no maps", "wanted at least one")
    if max_heads < 1:
        raise UsageError("max_heads", f"is {max_heads}", "wanted 1 or more")
    most = max(one.heads for one in maps)
    columns = min(max_heads, most)
    wide = max(_side(len(one.key_tokens)) for one in maps)
    left = max(_label(one.query_tokens) for one in maps) + 0.55
    above = [_label(one.key_tokens) + 0.34 if _new_keys(maps, row) else 0.0 for row, one in enumerate(maps)]
    height = sum(above) + sum(_side(len(one.query_tokens)) + _GAP for one in maps) + 0.9
    width = max(left + columns * (wide + _GAP) + 0.75, 4.2)
    figure = blank(width, height)
    panels = [_cells(one, columns) for one in maps]
    shades = colours(max(float(cells.max()) for cells in panels) or 1.0)
    y = height - 0.72
    image: Any = None
    for row, (one, cells) in enumerate(zip(maps, panels, strict=True)):
        tall, across = _side(len(one.query_tokens)), _side(len(one.key_tokens))
        y -= above[row] + tall
        for head, weights in enumerate(cells):
            box = ((left + head * (wide + _GAP)) / width, y / height, across / width, tall / height)
            axes = figure.add_axes(box)
            image = axes.imshow(weights, **shades, aspect="auto", interpolation="nearest")
            _dress(axes, one, head, named=above[row] > 0)
        write(figure, 0.16 / width, (y + tall / 2) / height, one.name, size=7.5, colour=SOFT, rotation=90, va="center")
        y -= _GAP
    top = height - 0.72 - above[0]
    low = max(y + _GAP, top - 2.0)
    bar(figure, image, figure.add_axes(((width - 0.62) / width, low / height, 0.11 / width, (top - low) / height)))
    heads = f"first {columns} of {most} heads" if columns < most else f"{columns} head{'s' * (columns > 1)}"
    note = f"{len(maps)} attention layer{'s' * (len(maps) > 1)}, {heads}; queries down, keys across"
    write(figure, 0.16 / width, 1 - 0.3 / height, visible(title, spaces=False), size=13, colour=INK, va="center")
    write(figure, 0.16 / width, 1 - 0.55 / height, note, size=8, colour=SOFT, va="center")
    save(figure, path, min(dpi, math.sqrt(PIXELS / (width * height)), 60_000 / max(width, height)), form)


def loss_figure(
    rows: Sequence[Mapping[str, Any]], path: str | Path, *, title: str = "Loss", dpi: int = 144, form: Form = "png"
) -> None:
    """Draw `loss` and `eval_loss` (nats a token) over `step` from rows of metrics, and write it to `path` as PNG or SVG.

    Rows may lack either; values that are not finite are left out. Raises UsageError when no row has a loss, without
    matplotlib, or when the file cannot be written.
    """
    curves = {name: _curve(rows, name) for name in ("loss", "eval_loss")}
    if not any(curves.values()):
        raise UsageError("loss curve", f"none of {len(rows)} rows has a step and a finite loss", "wanted at least one")
    figure = blank(6.4, 3.8)
    axes = figure.add_axes((0.11, 0.14, 0.74, 0.7))
    looks: dict[str, dict[str, Any]] = {
        "loss": {"color": BLUE, "linewidth": 1.1, "zorder": 2},
        "eval_loss": {"color": ORANGE, "linewidth": 1.8, "marker": "o", "markersize": 3.5, "zorder": 3},
    }
    ends = []
    for name, label in (("loss", "train"), ("eval_loss", "held out")):
        if points := curves[name]:
            steps, losses = zip(*points, strict=True)
            style = looks[name] if len(points) > 1 else looks[name] | {"marker": "o", "markersize": 4}
            axes.plot(steps, losses, **style)
            ends.append((losses[-1], f"{label}\n{losses[-1]:.3g}", looks[name]["color"]))
    axes.margins(x=0.02)
    bare(axes)
    axes.set_xlabel("step", fontsize=8.5, color=SOFT)
    axes.set_ylabel("nats a token", fontsize=8.5, color=SOFT)
    low, high = axes.get_ylim()
    places = _apart([(value - low) / (high - low) for value, _, _ in ends], 0.13)
    for place, (_, words, colour) in zip(places, ends, strict=True):  # named where they end: no legend to look up
        axes.text(1.02, place, words, transform=axes.transAxes, color=colour, fontsize=8.5, va="center")
    write(figure, 0.11, 0.92, visible(title, spaces=False), size=13, colour=INK, va="center")
    save(figure, path, dpi, form)


def faithfulness_figure(
    found: Sequence[Curves], path: str | Path, *, title: str = "Faithfulness", dpi: int = 144, form: Form = "png"
) -> None:
    """Draw the deletion and insertion curves of several methods, the random order grey, and write it as PNG or SVG.

    Deletion that falls early and insertion that rises early speak for a method. Raises UsageError without curves, without
    matplotlib, or when the file cannot be written.
    """
    if not found:
        raise UsageError("faithfulness", "there are no curves", "wanted at least one")
    figure = blank(11.2, 4.0)
    panels = (("best taken away", "deletion"), ("best alone", "insertion"))
    top = max(float(max(one.deletion.max(), one.insertion.max())) for one in found)
    for number, (words, name) in enumerate(panels):
        axes = figure.add_axes((0.06 + 0.36 * number, 0.15, 0.32, 0.7))
        for place, one in enumerate(found):
            plain = one.method == "random"
            colour = SOFT if plain else LINES[place % len(LINES)]
            style = "--" if plain else ("-", "-.", ":")[place // len(LINES) % 3]
            label = f"{one.method}, {one.deletion_area:.2f} / {one.insertion_area:.2f}" if number else None
            axes.plot(SHARES, getattr(one, name), color=colour, linestyle=style, linewidth=1.6, label=label)
        bare(axes)
        axes.set_ylim(0, top * 1.04)
        axes.set_xlabel(f"part of the words, {words}", fontsize=8.5, color=SOFT)
    figure.axes[0].set_ylabel("probability of the answer", fontsize=8.5, color=SOFT)
    figure.legend(loc="center left", bbox_to_anchor=(0.75, 0.5), frameon=False, fontsize=7.5,
                  title="area: deletion / insertion", title_fontsize=7.5)  # fmt: skip
    write(figure, 0.06, 0.94, visible(title, spaces=False), size=13, colour=INK, va="center")
    save(figure, path, dpi, form)


def _curve(rows: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    """(step, value) of the rows that have both as finite numbers, by step."""
    found = [(row.get("step"), row.get(name)) for row in rows]
    numbers = [(float(s), float(v)) for s, v in found if isinstance(s, int | float) and isinstance(v, int | float)]
    return sorted(point for point in numbers if math.isfinite(point[0]) and math.isfinite(point[1]))


def _apart(places: list[float], least: float) -> list[float]:
    """One or two heights, moved apart evenly to stand `least` from each other."""
    if len(places) < 2 or abs(places[0] - places[1]) >= least:
        return places
    middle, sign = sum(places) / 2, 1 if places[0] >= places[1] else -1
    return [middle + sign * least / 2, middle - sign * least / 2]


def _cells(one: AttentionMap, heads: int) -> Array:
    """The first heads of a map, long sides as means of tiles."""
    rows, columns = (-(-size // CELLS) for size in one.weights.shape[1:])
    return tiles(one.weights[:heads].astype("f4"), rows, columns)


def _side(tokens: int) -> float:
    """Inches of a panel's side."""
    return max(0.6, tokens * _CELL) if tokens <= LABELLED else 2.8


def _label(tokens: Sequence[str]) -> float:
    """Inches that the labels of an axis take; a long side has none."""
    return max(len(drawn(token)) for token in tokens) * _LETTER + 0.1 if len(tokens) <= LABELLED else 0.1


def _new_keys(maps: Sequence[AttentionMap], row: int) -> bool:
    """Whether this row's keys are not those of the row above, so that its axis has to name them."""
    return row == 0 or maps[row].key_tokens != maps[row - 1].key_tokens


def _dress(axes: Axes, one: AttentionMap, head: int, *, named: bool) -> None:
    """Tokens on the axes of one panel: queries at the first, keys where they change."""
    across, down = (
        [drawn(token) for token in tokens] if wanted and len(tokens) <= LABELLED else None
        for tokens, wanted in ((one.key_tokens, named), (one.query_tokens, head == 0))
    )
    name_axes(axes, across, down)
    if named:
        room = 0 if len(one.key_tokens) > LABELLED else _label(one.key_tokens) * 72
        axes.annotate(f"head {one.numbers[head]}", (0, 1), (0, room + 5), "axes fraction", "offset points", fontsize=8,
                      color=SOFT)  # fmt: skip
