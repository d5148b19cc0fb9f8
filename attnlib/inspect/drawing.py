"""What every figure shares: colours, fonts that have the letters, and files written whole, as PNG or SVG."""

from __future__ import annotations

import io
import unicodedata
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from attnlib.errors import UsageError
from attnlib.inspect.files import write_whole
from attnlib.inspect.maps import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Form = Literal["png", "svg"]

INK, SOFT, HAIR = "#1d2126", "#5c636c", "#d8d5cc"
BLUE, ORANGE = "#0072b2", "#d55e00"  # told apart by every eye
LINES = (BLUE, ORANGE, "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#1d2126")
_RAMP = ("#ffffff", "#f1f8dd", "#d3edc3", "#9bd7bd", "#5cbfc0", "#2b9cc0", "#2073b2", "#234596", "#141d5c")
_BOTH = ("#8a3a00", "#d55e00", "#f0b78c", "#ffffff", "#9cc9e3", "#0072b2", "#083a66")
_SCRIPTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "PingFang SC", "Microsoft YaHei", "Noto Sans Devanagari",
            "Noto Sans Thai", "Arial Unicode MS", "Segoe UI Symbol", "Noto Emoji")  # fmt: skip


def blank(width: float, height: float) -> Figure:
    """A figure of its own, in inches: no window, no backend chosen for anyone else."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("figure", "matplotlib is not installed", "PNG and SVG need it",
                         "pip install 'attnlib[plots]'") from error  # fmt: skip
    return Figure(figsize=(width, height), facecolor="white")


def save(figure: Figure, path: str | Path, dpi: float, form: Form = "png") -> None:
    """The figure at `path`, whole or not at all; equal figures are equal files. Letters of an SVG are outlines."""
    from matplotlib import rc_context

    image = io.BytesIO()
    if form == "png":
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        FigureCanvasAgg(figure).print_figure(image, format="png", dpi=dpi)
    else:
        from matplotlib.backends.backend_svg import FigureCanvasSVG

        with rc_context({"svg.hashsalt": "attnlib"}):
            FigureCanvasSVG(figure).print_figure(image, format="svg", dpi=dpi, metadata={"Date": None})
    write_whole(path, image.getvalue())


def colours(peak: float) -> dict[str, Any]:
    """White to navy by the square root of a weight: small weights are many and matter together."""
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm

    return {"cmap": LinearSegmentedColormap.from_list("weights", _RAMP), "norm": PowerNorm(0.5, vmin=0.0, vmax=peak)}


def signed_colours(peak: float) -> dict[str, Any]:
    """Orange below zero, white at it, blue above."""
    from matplotlib.colors import LinearSegmentedColormap

    return {"cmap": LinearSegmentedColormap.from_list("signed", _BOTH), "vmin": -peak, "vmax": peak}


def bar(figure: Figure, image: Any, axes: Axes, title: str = "weight") -> None:
    """What the colours mean."""
    shown = figure.colorbar(image, cax=axes)
    shown.outline.set_visible(False)
    axes.tick_params(labelsize=7, length=2, colors=SOFT)
    axes.set_title(title, fontsize=7, color=SOFT, loc="left", pad=5)


def bare(axes: Axes) -> None:
    """Axes of curves: hairlines, no frame."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(HAIR)
    axes.grid(axis="y", color=HAIR, linewidth=0.6)
    axes.tick_params(labelsize=8, length=0, colors=SOFT)


def name_axes(axes: Axes, across: list[str] | None, down: list[str] | None) -> None:
    """Names at the top and the left of a panel of cells, one each; None = none."""
    for spine in axes.spines.values():
        spine.set_color(HAIR)
    axes.tick_params(length=0, labelsize=7, pad=2, labeltop=True, labelbottom=False, colors=INK)
    for axis, names in ((axes.xaxis, across), (axes.yaxis, down)):
        axis.set_ticks([])
        if names is not None:
            axis.set_ticks(range(len(names)), names)
            for one in axis.get_ticklabels():
                one.set(parse_math=False, fontfamily=families(), rotation=90 if axis is axes.xaxis else 0)


def write(figure: Figure, x: float, y: float, words: str, *, size: float, colour: str, **more: Any) -> None:
    """Words as they stand: a dollar sign starts no formula."""
    shown = covered(words)
    figure.text(x, y, shown, fontsize=size, color=colour, parse_math=False, fontfamily=families(), **more)


def drawn(token: str) -> str:
    """A token as a label: visible, in letters that the fonts have, at most 16 of them."""
    shown = covered(visible(token))
    return shown if len(shown) <= 16 else shown[:15] + "…"


def covered(text: str) -> str:
    """`text` with a box for each letter that no font here has, which would be a warning each; joiners go."""
    known = _letters()
    kept = (c for c in text if c in known or unicodedata.category(c) not in {"Cf", "Mn"})
    return "".join(c if c in known else "□" for c in kept)


@cache
def families() -> list[str]:
    """Fonts to draw with, each for the letters that those before it lack."""
    from matplotlib.font_manager import fontManager

    there = {font.name for font in fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in _SCRIPTS if name in there)]


@cache
def _letters() -> frozenset[str]:
    """Every letter that the fonts of `families` can draw."""
    from matplotlib.font_manager import findfont, get_font

    return frozenset(chr(code) for name in families() for code in get_font(findfont(name)).get_charmap())
