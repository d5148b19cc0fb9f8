"""One attention call beside torch's own, and long texts with a learned bias in blocks of rows."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F

from attnlib import T5Relative, attend
from attnlib.attention.biases import t5_bucket
from attnlib.inspect.cost import exponent
from benchmarks.table import Options, Row, compared
from benchmarks.timing import interleaved

HEADS, WIDTH = 8, 64  # of the long texts
LONG = 4096


def step(options: Options) -> Iterator[Row]:
    """One query over K keys, 12 heads of 64, on 1 thread: what attend adds to F.scaled_dot_product_attention."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        ours, bare = _microseconds(512, options)
        yield compared("step K=512", ours, bare, unit="us", limit=1.15, note=_told(512))
        ours, bare = _microseconds(1, options)
        more = [a - b for a, b in zip(ours, bare)]
        yield Row(name="step K=1", ours=median(ours), baseline=median(bare), unit="us", judged="us more",
                  value=median(ours) - median(bare), low=min(more), high=max(more), limit=6.0, note=_told(1))  # fmt: skip
    finally:
        torch.set_num_threads(threads)


def _told(keys: int) -> str:
    return f"1 query, {keys} keys, H=12, D=64, 1 thread, float32"


@torch.no_grad()
def _microseconds(keys: int, options: Options) -> tuple[list[float], list[float]]:
    q, k, v = (torch.randn(1, 12, tokens, 64) for tokens in (1, keys, keys))
    ours, bare = interleaved(
        lambda: lambda: attend(q, k, v),
        lambda: lambda: F.scaled_dot_product_attention(q, k, v),
        repeats=5 * options.repeats,
        clock=options.clock,
        calls=50 if options.quick else 500,
    )
    return [ms * 1e3 for ms in ours], [ms * 1e3 for ms in bare]


def chunked(options: Options) -> Iterator[Row]:
    """Forward and backward with a learned T5 bias: growth of peak memory, then time and memory beside dense SDPA."""
    lengths = (512, 1024, 2048) if options.quick else (1024, 2048, 4096, 8192)
    peaks = {tokens: peak("chunked", tokens) for tokens in lengths}
    growth = slope(peaks)
    first, last = lengths[0], lengths[-1]
    told = ", ".join(f"{tokens}: {peak:.1f}" for tokens, peak in peaks.items())
    yield Row(name="chunked growth", ours=peaks[last], baseline=peaks[first], unit="MiB", judged="exponent", value=growth,
              limit=1.1, note=f"MiB by tokens {told}; least squares in log-log; {peak_method()}")  # fmt: skip
    tokens = lengths[-1] if options.quick else LONG
    dense = peak("dense", tokens)
    yield Row(name="chunked memory", ours=peaks[tokens], baseline=dense, unit="MiB", value=peaks[tokens] / dense,
              note=f"{tokens} tokens, beside dense biased SDPA")  # fmt: skip
    runs = {name: work(name, tokens) for name in ("chunked", "dense")}
    _same_gradients(runs["chunked"], runs["dense"])
    repeats = min(options.repeats, 5)
    ours, theirs = interleaved(lambda: runs["chunked"][0], lambda: runs["dense"][0], repeats=repeats, clock=options.clock)
    speedups = [b / a for a, b in zip(ours, theirs)]
    yield Row(name="chunked speed", ours=median(ours), baseline=median(theirs), unit="ms", judged="speed-up",
              value=median(theirs) / median(ours), low=min(speedups), high=max(speedups), limit=1.0, below=False,
              note=f"{tokens} tokens, H={HEADS}, D={WIDTH}, forward and backward, {repeats} repeats, float32; "
              "gradients of q, k, v and the table agree")  # fmt: skip


Work = tuple[Callable[[], None], list[Tensor]]


def work(name: str, tokens: int) -> Work:
    """(forward and backward, what it gives gradients to) of attention with a learned T5 bias, in blocks or dense."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, HEADS, tokens, WIDTH, requires_grad=True) for _ in range(3))
    grad, term = torch.randn(1, HEADS, tokens, WIDTH), T5Relative(num_heads=HEADS)
    table = term.table
    leaves = [q, k, v, table]

    def in_blocks() -> Tensor:
        return attend(q, k, v, terms=[term], backend="chunked")

    def dense() -> Tensor:
        place = torch.arange(tokens)
        bucket = t5_bucket(place[None] - place[:, None], buckets=32, max_distance=128, both=True)
        bias = F.embedding(bucket, table).permute(2, 0, 1)[None]
        return F.scaled_dot_product_attention(q, k, v, bias)

    forward = in_blocks if name == "chunked" else dense

    def run() -> None:
        for leaf in leaves:
            leaf.grad = None
        forward().backward(grad)

    return run, leaves


def _same_gradients(one: Work, other: Work) -> None:
    one[0](), other[0]()
    for a, b in zip(one[1], other[1]):
        assert a.grad is not None and b.grad is not None
        error = float((a.grad - b.grad).abs().max() / b.grad.abs().max())
        if not error <= 1e-4:
            raise RuntimeError(f"chunked and dense gradients differ by {error:.1e} of the greatest")


def peak(name: str, tokens: int) -> float:
    """MiB beyond the inputs, of a process of its own."""
    command = [sys.executable, str(Path(__file__).with_name("peak.py")), name, str(tokens), str(torch.get_num_threads())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"peak.py {name} {tokens} failed: {done.stderr.strip().splitlines()[-1:]}")
    return float(json.loads(done.stdout)) / 2**20


def peak_method() -> str:
    """How the peak is found, for the note."""
    return "peak resident memory of a fresh process less what it held with its inputs made, gradients included"


def slope(points: dict[int, float]) -> float:
    """Exponent b of y = a x^b, of two points above 0 at least."""
    found = exponent(points)
    assert found is not None
    return found
