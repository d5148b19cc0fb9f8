"""SIGTERM and Ctrl-C as a wish that the loop reads at points where its state is whole."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
    """Raised by `Stops.check`, caught by the loop."""


class Stops:
    """Within `with stops:`, the first signal is noted and what handled it before is put back: a second acts at once.

    Python runs handlers between two calls into C, and one backward may take minutes. So a thread is woken by the signal
    itself and calls `at_once`, while the main thread goes on. Outside the main thread nothing is noted.
    """

    def __init__(self, at_once: Callable[[], None] = lambda: None) -> None:
        self.signal: int | None = None
        self._at_once = at_once
        self._before: dict[int, Any] = {}
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._note)
            self._ear, self._bell = socket.socketpair()
            self._bell.setblocking(False)
            self._other_bell = signal.set_wakeup_fd(self._bell.fileno(), warn_on_full_buffer=False)
            self._thread = threading.Thread(target=self._listen, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._restore()
        if self._thread is not None:
            signal.set_wakeup_fd(self._other_bell)
            self._bell.close()
            self._thread.join()
            self._ear.close()

    def check(self) -> None:
        """Raises Stopped once a signal has come."""
        if self.signal is not None:
            raise Stopped

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore()

    def _listen(self) -> None:
        while number := self._ear.recv(1):
            if number[0] in SIGNALS:
                self.signal = number[0]
                self._at_once()
                return

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before = {}


def name_of(number: int) -> str:
    """Ctrl-C, SIGTERM."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
