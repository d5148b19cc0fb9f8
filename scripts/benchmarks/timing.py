"""Two things timed in turns, so that a slow minute of the machine meets both."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

Thunk = Callable[[], object]
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def interleaved(
    ours: Callable[[], Thunk], baseline: Callable[[], Thunk], *, repeats: int, clock: str = "wall", calls: int = 1
) -> tuple[list[float], list[float]]:
    """Milliseconds a call of both, `repeats` times in turns after one warm-up; who is first changes every time.

    Each argument prepares what is then timed: its own time does not count. clock: wall, or cpu (of all threads).
    """
    taken: tuple[list[float], list[float]] = [], []
    now = CLOCKS[clock]
    ours()(), baseline()()
    gc.collect()
    gc.disable()
    try:
        for repeat in range(repeats):
            for which in (0, 1) if repeat % 2 == 0 else (1, 0):
                thunk = (ours, baseline)[which]()
                begin = now()
                for _ in range(calls):
                    thunk()
                taken[which].append((now() - begin) / calls * 1e3)
    finally:
        gc.enable()
    return taken
