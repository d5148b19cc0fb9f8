"""Cost curves as this machine has them: seconds of a forward, and the most bytes that torch held at once."""

from __future__ import annotations

import contextlib
import gc
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from attnlib.inspect.cost import Curve, exponent
from attnlib.inspect.describe import run_once
from attnlib.inspect.on_meta import fresh
from attnlib.models.spec import ModelSpec

REPEATS = 3


def measure(
    spec: ModelSpec,
    curve: Curve,
    *,
    batch: int = 1,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    backend: str = "auto",
    seconds: float = 60.0,
) -> Curve:
    """The curve of `spec` with `seconds` (the median of three) and `measured_memory` beside what is predicted.

    Weights are random. Lengths are left out, as None, from the first on that would take all of this together beyond
    `seconds`, growing as it has or else as n^2, or whose predicted memory is not free.
    """
    model = spec.build().to(device, dtype).eval()
    for module in model.modules():
        if hasattr(module, "backend"):
            module.backend = backend  # type: ignore[assignment]

    def forward(tokens: int) -> Callable[[], object]:
        ids = torch.zeros(batch, tokens, dtype=torch.long, device=device)
        return lambda: run_once(model, ids, fresh(batch, tokens, device=device))

    with torch.no_grad():
        wanted = {one.tokens: one.memory for one in sorted(curve.costs, key=lambda one: one.tokens)}
        found = dict(figures(forward, wanted, seconds=seconds, device=device))
    costs = []
    for one in curve.costs:
        taken, memory = found.get(one.tokens, (None, None))
        costs.append(replace(one, seconds=taken, measured_memory=memory))
    return replace(curve, costs=tuple(costs))


def figures(
    make: Callable[[int], Callable[[], object]],
    wanted: Mapping[int, int],
    *,
    seconds: float,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[int, tuple[float, int]]]:
    """(tokens, (seconds, bytes)) of growing lengths -> predicted bytes, while there is time and room.

    `make(tokens)` gives what is run; its inputs do not count.
    """
    begun = time.perf_counter()
    known: dict[int, float] = {}
    for tokens, memory in wanted.items():
        left = seconds - (time.perf_counter() - begun)
        if known and _expected(known, tokens) * (REPEATS + 1) > left:
            return
        if torch.device(device).type == "cpu" and memory > 0.8 * _free():
            return
        run = make(tokens)
        held = peak_bytes(run, device)  # first, so that masks made once are in it
        taken = sorted(_seconds(run, device) for _ in range(REPEATS))[REPEATS // 2]
        known[tokens] = taken
        yield tokens, (taken, held)


def _expected(known: Mapping[int, float], tokens: int) -> float:
    """Seconds of a longer text, as the last two have grown."""
    last = dict([*known.items()][-2:])
    power = exponent(last)
    longest = max(last)
    grown: float = (tokens / longest) ** (2.0 if power is None else min(max(power, 1.0), 2.0))
    return last[longest] * grown


def peak_bytes(run: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """Most bytes that torch held at once while `run` ran, beyond those before it: what its allocator was asked for."""
    where = torch.device(device)
    if where.type == "cuda":
        torch.cuda.synchronize(where)
        torch.cuda.reset_peak_memory_stats(where)
        before = torch.cuda.memory_allocated(where)
        run()
        torch.cuda.synchronize(where)
        return torch.cuda.max_memory_allocated(where) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it tells stderr that it begins and ends
    from torch.profiler import ProfilerActivity, profile

    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run()
    total = most = 0
    assert seen.profiler is not None and seen.profiler.kineto_results is not None
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            total += event.nbytes()
            most = max(most, total)
    return most


def _seconds(run: Callable[[], object], device: torch.device | str) -> float:
    cuda = torch.device(device).type == "cuda"
    if cuda:
        torch.cuda.synchronize(device)
    begun = time.perf_counter()
    run()
    if cuda:
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun


def _free() -> float:
    """Bytes of memory that are free, as Linux has it; elsewhere no bound."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return float(line.split()[1]) * 1024
    return float("inf")
