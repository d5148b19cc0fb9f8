"""Figures of head reports, explanations and summaries, as PNG or SVG. Needs the extra `plots`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from attnlib.errors import UsageError
from attnlib.inspect.drawing import (
    INK,
    LINES,
    SOFT,
    Form,
    bar,
    bare,
    blank,
    colours,
    drawn,
    name_axes,
    save,
    signed_colours,
    write,
)
from attnlib.inspect.explanations.result import Explanation
from attnlib.inspect.heads import HeadReport
from attnlib.inspect.maps import visible
from attnlib.inspect.summaries import Summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

_CELL, _LETTER = 0.2, 0.075  # inches: a cell, a letter of a label
WORDS, ROWS = 60, 48  # most words across and rows down


def heads_figure(
    report: HeadReport, path: str | Path, *, title: str = "Heads", dpi: int = 144, form: Form = "png"
) -> None:
    """Draw a panel a kind, attentions down and heads across, heads that are clearly of the kind framed.

    Raises UsageError without matplotlib, or when the file cannot be written.
    """
    attentions = list(dict.fromkeys(one.path for one in report.scores))
    most, kinds = max(one.head for one in report.scores) + 1, report.kinds
    left = max(map(len, attentions)) * _LETTER + 0.3
    wide, tall, gap = max(most * _CELL, 1.0), len(attentions) * _CELL, 0.28
    width, height = max(left + len(kinds) * (wide + gap) + 0.8, 4.2), tall + 1.25
    figure = blank(width, height)
    image = None
    for number, kind in enumerate(kinds):
        grid = np.full((len(attentions), most), np.nan)
        for one in report.best(kind):
            grid[attentions.index(one.path), one.head] = one.value
        axes = figure.add_axes(((left + number * (wide + gap)) / width, 0.2 / height, wide / width, tall / height))
        image = axes.imshow(grid, **colours(1.0), aspect="auto", interpolation="nearest")
        name_axes(axes, [str(head) for head in range(most)], attentions if number == 0 else None)
        axes.tick_params(axis="x", labelrotation=0, labelsize=6)
        axes.set_title(kind, fontsize=8.5, color=INK, pad=14, loc="left")
        for one in report.named(kind):
            at = (one.head - 0.5, attentions.index(one.path) - 0.5)
            axes.add_patch(_frame(at))
    bar(figure, image, figure.add_axes(((width - 0.62) / width, 0.2 / height, 0.11 / width, tall / height)), "score")
    note = f"{report.texts} text{'s' * (report.texts > 1)}, {report.tokens} tokens; framed: clearly above shuffled positions"
    _titled(figure, title, note, width, height)
    save(figure, path, dpi, form)


def explanations_figure(
    found: Sequence[Explanation], path: str | Path, *, title: str = "Why", dpi: int = 144, form: Form = "png"
) -> None:
    """Draw words across, and down the methods of one target, or the targets of one method; a row's colours are its own.

    Blue speaks for the target, orange against it; at most 60 words and 48 rows are drawn. Raises UsageError without
    explanations, without matplotlib, or when the file cannot be written.
    """
    if not found:
        raise UsageError("explanations figure", "there are no explanations", "wanted at least one")
    several = len(found[0].targets) > 1
    chosen = [(found[0], n, found[0].targets[n]) for n in range(len(found[0].targets))] if several else [
        (one, 0, one.method) for one in found
    ]  # fmt: skip
    chosen = chosen[:ROWS]
    words = [(side.name, word.text) for side in found[0].sides for word in side.words][:WORDS]
    grid = np.array([_of_words(one, number) for one, number, _ in chosen])[:, : len(words)]
    peak = np.abs(grid).max(1, keepdims=True)
    down = [drawn(name) if several else name for _, _, name in chosen]
    across = [drawn(text) for _, text in words]
    left, above = max(map(len, down)) * _LETTER + 0.3, max(map(len, across)) * _LETTER + 0.2
    width, height = max(left + len(words) * _CELL + 0.9, 4.2), len(chosen) * _CELL + above + 0.78
    figure = blank(width, height)
    axes = figure.add_axes((left / width, 0.15 / height, len(words) * _CELL / width, len(chosen) * _CELL / height))
    image = axes.imshow(grid / np.where(peak > 0, peak, 1.0), **signed_colours(1.0), aspect="auto", interpolation="nearest")
    name_axes(axes, across, down)
    turns = [n for n in range(1, len(words)) if words[n][0] != words[n - 1][0]]
    for place in turns:  # between the source and what was written
        axes.axvline(place - 0.5, color=INK, linewidth=1.0)
    low = max(len(chosen) * _CELL, 0.8)
    bar(figure, image, figure.add_axes(((width - 0.6) / width, 0.15 / height, 0.11 / width, low / height)), "of row")
    about = f"{found[0].method}; targets down" if several else f"{found[0].targets[0]}; methods down"
    _titled(figure, title, f"{about}, words across, each row by its greatest", width, height)
    save(figure, path, dpi, form)


def summaries_figure(
    found: Sequence[Summary], path: str | Path, *, title: str = "Attention summed up", dpi: int = 144, form: Form = "png"
) -> None:
    """Draw, of each attention, the mass its heads keep outside windows, and where the mass goes along the text.

    Raises UsageError without summaries, without matplotlib, or when the file cannot be written.
    """
    if not found:
        raise UsageError("summaries figure", "there are no summaries", "wanted at least one")
    row, width = 1.7, 9.6
    height = len(found) * row + 0.9
    figure = blank(width, height)
    for number, one in enumerate(found):
        y = (height - 0.75 - (number + 1) * row + 0.5) / height
        tall = (row - 0.62) / height
        left = figure.add_axes((0.075, y, 0.3, tall))
        bare(left)
        left.set_ylim(0, 1)
        left.set_title(one.path, fontsize=8, color=INK, loc="left", pad=4)
        if one.outside is None:
            left.text(0.5, 0.5, "two texts: no window", transform=left.transAxes, fontsize=8, color=SOFT, ha="center")
        else:
            for place in range(len(one.heads)):
                left.plot(one.windows, one.outside[place].numpy(), color=LINES[place % len(LINES)], linewidth=1.2)
            left.set_xscale("log", base=2)
        right = figure.add_axes((0.45, y, 0.44, tall))
        bare(right)
        for place, head in enumerate(one.heads):
            shares = one.received[place].numpy() / max(len(one.given[place]), 1)
            right.plot(_binned(shares), color=LINES[place % len(LINES)], linewidth=1.0, label=f"head {head}")
        right.set_yscale("symlog", linthresh=1e-3)
        if number == 0:
            right.legend(loc="upper left", bbox_to_anchor=(1.01, 1.1), frameon=False, fontsize=6.5)
        if number == len(found) - 1:
            left.set_xlabel("window, tokens", fontsize=8, color=SOFT)
            right.set_xlabel("place in the text, shares of at most 256 parts", fontsize=8, color=SOFT)
    _titled(figure, title, "left: mean mass farther than a window; right: share of all mass received", width, height)
    save(figure, path, dpi, form)


def _binned(values: NDArray[np.floating], parts: int = 256) -> NDArray[np.floating]:
    """Sums of at most so many parts in a row."""
    if len(values) <= parts:
        return values
    edges = np.linspace(0, len(values), parts + 1).astype(int)[:-1]
    return np.add.reduceat(values, edges)


def _of_words(one: Explanation, target: int) -> NDArray[np.float64]:
    return np.array([score for side in one.sides for _, score in one.words(side.name, target)])


def _frame(at: tuple[float, float]) -> Rectangle:
    from matplotlib.patches import Rectangle

    return Rectangle(at, 1, 1, fill=False, edgecolor="#d55e00", linewidth=1.1, clip_on=False)


def _titled(figure: Figure, title: str, note: str, width: float, height: float) -> None:
    write(figure, 0.16 / width, 1 - 0.25 / height, visible(title, spaces=False), size=12, colour=INK, va="center")
    write(figure, 0.16 / width, 1 - 0.5 / height, note, size=8, colour=SOFT, va="center")
