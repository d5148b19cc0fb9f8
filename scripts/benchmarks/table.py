"""Rows of figures, and how they are printed."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch


@dataclass(frozen=True, kw_only=True)
class Options:
    """How long and how wide to measure. quick: small shapes and budgets, to see that it runs; figures mean little."""

    threads: int = 2
    repeats: int = 7
    quick: bool = False
    seconds: float = 75.0  # of training, for each model of `toys`
    clock: str = "wall"
    sentence_model: Path | None = None  # a checkpoint folder, for `embed`
    png: Path | None = None  # where `curves` draws


@dataclass(frozen=True, kw_only=True)
class Row:
    """One comparison. value: what is held against `limit`, by default the ratio ours / baseline.

    low, high: the least and greatest value of single repeats. below: whether the target is an upper bound.
    """

    name: str
    ours: float
    baseline: float | None
    unit: str
    value: float
    judged: str = "ratio"
    low: float | None = None
    high: float | None = None
    limit: float | None = None
    below: bool = True
    note: str = ""

    @property
    def ok(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.limit is None:
            return None
        return self.value <= self.limit if self.below else self.value >= self.limit

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "ok": self.ok}


def compared(
    name: str,
    ours: Sequence[float],
    baseline: Sequence[float],
    *,
    unit: str = "ms",
    limit: float | None = None,
    note: str = "",
) -> Row:
    """The ratio of medians, with the spread of the ratios of neighbouring repeats."""
    ratios = [a / b for a, b in zip(ours, baseline, strict=True)]
    a, b = median(ours), median(baseline)
    return Row(name=name, ours=a, baseline=b, unit=unit, value=a / b, low=min(ratios), high=max(ratios), limit=limit,
               note=note)  # fmt: skip


def header(options: Options) -> str:
    """The machine and the versions, without which no figure means anything."""
    try:
        from transformers import __version__ as transformers
    except ImportError:
        transformers = "not installed"
    lines = [
        f"machine: {_processor()}, {os.cpu_count()} logical cores, {platform.system()}, {torch.get_num_threads()} threads",
        f"python {platform.python_version()}, torch {torch.__version__}, transformers {transformers}",
        f"eager; {options.repeats} interleaved repeats, {options.clock} clock; medians, [least .. greatest] of the repeats",
    ]
    return "\n".join(lines + (["--quick: small shapes; figures mean little"] if options.quick else []))


COLUMNS = ("name", "ours", "baseline", "unit", "judged", "value", "spread", "target", "ok")


def cells(row: Row) -> tuple[str, ...]:
    """A row as text."""
    spread = "" if row.low is None or row.high is None else f"[{row.low:.3g} .. {row.high:.3g}]"
    target = "" if row.limit is None else f"{'<=' if row.below else '>='} {row.limit:g}"
    ok = "" if row.ok is None else "yes" if row.ok else "NO"
    baseline = "" if row.baseline is None else f"{row.baseline:.4g}"
    return row.name, f"{row.ours:.4g}", baseline, row.unit, row.judged, f"{row.value:.3f}", spread, target, ok


def table(rows: Iterable[Row]) -> str:
    """Markdown that also reads well as plain text; what was measured stands below it."""
    listed = list(rows)
    lines = [COLUMNS, *map(cells, listed)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
    drawn = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |" for line in lines]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    notes = [f"- {row.name}: {row.note}" for row in listed if row.note]
    return "\n".join([drawn[0], rule, *drawn[1:], *([""] if notes else []), *notes])


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
