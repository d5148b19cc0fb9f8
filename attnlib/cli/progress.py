"""Progress on a terminal: a bar where rich is installed, else plain lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from attnlib.train import Event, Reporter

EVERY = 5.0  # seconds between plain lines of steps


@contextmanager
def reporter(stream: TextIO) -> Iterator[Reporter]:
    """What `train` tells, written to `stream` while this is open."""
    if stream.isatty():
        try:
            import rich.progress  # noqa: F401
        except ImportError:
            pass
        else:
            with _bar(stream) as report:
                yield report
            return
    yield _Lines(stream)


class _Lines:
    """A line an event; steps at most every few seconds."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.told = stream, 0.0

    def __call__(self, event: Event) -> None:
        now = time.monotonic()
        if event.what == "step" and now - self.told < EVERY and event.step > 1:
            return
        self.told = now if event.what == "step" else self.told
        print(f"{event.fraction:4.0%}  {_line(event)}", file=self.stream, flush=True)


@contextmanager
def counter(stream: TextIO, what: str) -> Iterator[Callable[[int, int], None]]:
    """`told(done, total)` while something is counted: a bar on a terminal, else a line every few seconds."""
    if stream.isatty():
        try:
            import rich.progress  # noqa: F401
        except ImportError:
            pass
        else:
            with _counted(stream, what) as told:
                yield told
            return
    last = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= EVERY:
            last = time.monotonic()
            print(f"{done / max(total, 1):4.0%}  {done:,} of {total:,} {what}", file=stream, flush=True)

    yield tell


@contextmanager
def _counted(stream: TextIO, what: str) -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(bar_width=24), MofNCompleteColumn(), TextColumn(what, markup=False), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=stream), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _line(event: Event) -> str:
    return event.text if event.what == "step" else f"step {event.step}  {event.text}"  # steps name themselves


@contextmanager
def _bar(stream: TextIO) -> Iterator[Reporter]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (BarColumn(bar_width=24), TaskProgressColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
               TextColumn("{task.description}", markup=False))  # fmt: skip
    with Progress(*columns, console=Console(file=stream), transient=True) as bar:
        task = bar.add_task("", total=1.0)

        def report(event: Event) -> None:
            if event.what == "step":
                bar.update(task, completed=event.fraction, description=_line(event))
            else:
                bar.update(task, completed=event.fraction)
                bar.console.print(_line(event), markup=False, highlight=False)

        yield report
