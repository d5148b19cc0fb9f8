"""Run as a process of its own: the peak memory of one piece of work, in bytes beyond its inputs.

The high-water mark of resident memory (VmHWM, which the kernel lets a process reset) less the resident memory just before;
elsewhere than on Linux the sum of torch's own allocations at its greatest. A short call comes first, so that libraries and
threads are there already. Large blocks are mapped one by one and given back at once (MALLOC_MMAP_THRESHOLD_), so that what
the allocator keeps for later is not counted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

STATUS = Path("/proc/self/status")


def _kilobytes(field: str) -> int:
    found = [line.split()[1] for line in STATUS.read_text(encoding="ascii").splitlines() if line.startswith(field + ":")]
    return int(found[0])


def measure(name: str, tokens: int) -> int:
    """Bytes."""
    from benchmarks import calls, seeing, sparse

    kind, _, what = name.partition(" ")
    makers = {"sparse": sparse.work, "seeing": seeing.work}

    def made(tokens: int) -> Callable[[], object]:
        return makers[kind](what, tokens) if kind in makers else calls.work(name, tokens)[0]

    made(600 if kind == "sparse" else 64)()
    run = made(tokens)
    if not STATUS.exists():
        return _allocated(run)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # VmHWM := VmRSS
    before = _kilobytes("VmRSS")
    run()
    return (_kilobytes("VmHWM") - before) * 1024


def _allocated(run: object) -> int:
    from torch.profiler import ProfilerActivity, profile

    assert callable(run)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run()
    total = most = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            total += event.nbytes()
            most = max(most, total)
    return most


if __name__ == "__main__":
    if "MALLOC_MMAP_THRESHOLD_" not in os.environ:  # read once, when a process begins
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"})
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import torch

    torch.set_num_threads(int(sys.argv[3]))
    print(measure(sys.argv[1], int(sys.argv[2])))
