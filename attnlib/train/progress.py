"""Events for people: a bar where there is a terminal and `rich` is installed, else one line an event."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from attnlib.train.events import Event, Reporter


@contextmanager
def progress(stream: TextIO) -> Iterator[Reporter]:
    """Within `with progress(sys.stderr) as report`, `train(..., report=report)` shows how far it is."""
    bar = _rich(stream) if stream.isatty() else None
    if bar is None:
        yield lambda event: _line(stream, event)
        return
    with bar:
        task = bar.add_task("", total=1.0)
        yield lambda event: _show(bar, task, event)


def _line(stream: TextIO, event: Event) -> None:
    stream.write(f"{event.fraction:4.0%}  {event.text}\n")
    stream.flush()


def _rich(stream: TextIO) -> Any:
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
    except ImportError:
        return None
    columns = (
        BarColumn(24),
        TaskProgressColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.description}", markup=False),
    )
    return Progress(*columns, console=Console(file=stream, highlight=False, markup=False), refresh_per_second=4)


def _show(bar: Any, task: Any, event: Event) -> None:
    """Figures of steps move with the bar; everything else stays above it."""
    if event.what == "step":
        bar.update(task, completed=event.fraction, description=event.text)
    else:
        bar.update(task, completed=event.fraction)
        bar.console.print(event.text, soft_wrap=True)
