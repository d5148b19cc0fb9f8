"""What importing attnlib costs beside importing torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

from benchmarks.table import Options, Row, compared


def startup(options: Options) -> Iterator[Row]:
    """CPU time from the start of a process to the end of its import, in turns, files already in the page cache."""
    taken: dict[str, list[float]] = {"attnlib": [], "torch": []}
    _seconds("attnlib")
    for repeat in range(3 if options.quick else 2 * options.repeats + 1):
        for module in list(taken)[:: 1 if repeat % 2 else -1]:
            taken[module].append(_seconds(module) * 1e3)
    yield compared("import", taken["attnlib"], taken["torch"], limit=1.15,
                   note="CPU time of a process that imports attnlib, beside one that imports torch")  # fmt: skip


def _seconds(module: str) -> float:
    code = f"import {module}, time; print(time.process_time())"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
