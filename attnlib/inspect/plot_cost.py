"""Cost curves as a figure: tokens against time or work, and against memory, on logarithmic axes. Needs the extra `plots`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from attnlib.errors import UsageError
from attnlib.inspect.cost import Curve, exponent
from attnlib.inspect.drawing import INK, LINES, SOFT, Form, bare, blank, save, write
from attnlib.inspect.maps import visible


def cost_figure(
    curves: Sequence[Curve], path: str | Path, *, title: str = "Cost", dpi: int = 144, form: Form = "png"
) -> None:
    """Draw a line a model over the tokens: seconds where measured, else FLOPs; and bytes, a ring where measured.

    The legend has the exponents of both. Raises UsageError without curves, without matplotlib, or when the file cannot be
    written.
    """
    if not curves:
        raise UsageError("cost", "there are no curves", "wanted at least one")
    figure = blank(11.6, 4.4)
    from matplotlib.ticker import FuncFormatter, LogLocator

    timed = any(curve.points("seconds") for curve in curves)
    left = "seconds" if timed else "flops"
    panels = [figure.add_axes((0.065 + 0.355 * number, 0.14, 0.305, 0.7)) for number in (0, 1)]
    for place, curve in enumerate(curves):
        look = {"color": LINES[place % len(LINES)], "linestyle": ("-", "--", "-.", ":")[place // len(LINES) % 4],
                "linewidth": 1.5}  # fmt: skip
        memory = curve.points("memory") or curve.points("measured_memory")
        for axes, points in zip(panels, (curve.points(left), memory), strict=True):
            label = f"{visible(curve.name, spaces=False)}  {_grown(curve, left)}, {_grown(curve, 'memory')}"
            axes.plot([*points], [*points.values()], marker="o", markersize=3, label=label, **look)  # type: ignore[arg-type]
        seen = curve.points("measured_memory")
        panels[1].plot([*seen], [*seen.values()], "o", color=look["color"], markersize=7, markerfacecolor="none")
    lengths = sorted({one.tokens for curve in curves for one in curve.costs})
    for axes, name in zip(panels, ("seconds of a forward" if timed else "FLOPs of a forward", "MiB at once"), strict=True):
        bare(axes)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(lengths, [short(n) for n in lengths])
        axes.minorticks_off()
        axes.set_xlabel("tokens", fontsize=8.5, color=SOFT)
        axes.set_title(name, fontsize=8.5, color=SOFT, loc="left")
    panels[0].yaxis.set_major_locator(LogLocator(10, (1.0, 3.0)))
    panels[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.1g}"))
    panels[1].yaxis.set_major_locator(LogLocator(4))
    panels[1].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 2**20:.3g}"))
    handles, labels = panels[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="center left", bbox_to_anchor=(0.735, 0.5), frameon=False, fontsize=7.5,
                  title=f"grows as n to the: {'time' if timed else 'work'}, memory", title_fontsize=7.5)  # fmt: skip
    write(figure, 0.065, 0.94, visible(title, spaces=False), size=13, colour=INK, va="center")
    save(figure, path, dpi, form)


def _grown(curve: Curve, figure: str) -> str:
    found = exponent(curve.points(figure) or curve.points(f"measured_{figure}"))
    return "-" if found is None else f"{found:.2f}"


def short(tokens: int) -> str:
    """1024 as 1k, where it is even."""
    return f"{tokens // 1024}k" if tokens % 1024 == 0 else str(tokens)
