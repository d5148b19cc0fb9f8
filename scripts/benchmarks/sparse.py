"""Attention whose work follows its pattern, beside torch's full causal kernel; growth of time and memory with the tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from attnlib import BigBird, Causal, First, Mask, Window, attend
from benchmarks.calls import HEADS, WIDTH, peak, peak_method, slope
from benchmarks.table import Options, Row, compared
from benchmarks.timing import interleaved

WINDOW: Mask = Causal() & Window(before=255)
PATTERNS: dict[str, tuple[Mask, float]] = {  # and the most that twice the tokens may cost
    "window 256": (WINDOW, 2.3),
    "window + global": (Causal() & (Window(before=255) | First(count=16)), 2.4),
    "BigBird": (BigBird(layer=0), 2.4),
}


def sparse(options: Options) -> Iterator[Row]:
    """Forward, and forward and backward, of a window beside full attention; then what twice the tokens cost."""
    tokens = 1024 if options.quick else 4096
    for grad, limit in ((False, 2.3), (True, 2.7)):
        ours, full = interleaved(
            lambda g=grad: run(WINDOW, tokens, g), lambda g=grad: run(None, tokens, g),
            repeats=options.repeats, clock=options.clock,
        )  # fmt: skip
        ratios = [b / a for a, b in zip(ours, full)]
        yield Row(name=f"window 256{', backward' if grad else ''}", ours=median(ours), baseline=median(full), unit="ms",
                  judged="speed-up", value=median(full) / median(ours), low=min(ratios), high=max(ratios), limit=limit,
                  below=False, note=f"{tokens} tokens, beside causal SDPA of all; {_told(grad)}")  # fmt: skip
    long = 2048 if options.quick else 16384
    for name, (mask, limit) in PATTERNS.items():
        for grad in (False, True):
            ours, half = interleaved(
                lambda m=mask, g=grad: run(m, long, g), lambda m=mask, g=grad: run(m, long // 2, g),
                repeats=min(options.repeats, 5), clock=options.clock,
            )  # fmt: skip
            yield Row(name=f"{name}{', backward' if grad else ''}, growth", ours=median(ours), baseline=median(half),
                      unit="ms", judged="growth", value=median(ours) / median(half), limit=limit,
                      note=f"{long} tokens beside {long // 2}; {_told(grad)}")  # fmt: skip
    lengths = (512, 1024, 2048) if options.quick else (1024, 2048, 4096, 8192, 16384)
    for name, limit in (("window 256", 1.05), ("BigBird", 1.1)):
        peaks = {n: peak(f"sparse {name}", n) for n in lengths}
        told = ", ".join(f"{n}: {mib:.1f}" for n, mib in peaks.items())
        yield Row(name=f"{name} memory", ours=peaks[lengths[-1]], baseline=peaks[lengths[0]], unit="MiB", judged="exponent",
                  value=slope(peaks), limit=limit, note=f"MiB by tokens {told}; {_told(True)}; {peak_method()}")  # fmt: skip
    most = 2048 if options.quick else 8192
    blocks, dense = (peak(name, most) for name in ("chunked", "dense"))
    yield Row(name="T5 bias memory", ours=blocks, baseline=dense, unit="MiB", value=blocks / dense, limit=0.05,
              note=f"{most} tokens, forward and backward in blocks of rows, beside dense biased SDPA")  # fmt: skip
    try:
        import transformers  # noqa: F401
    except ImportError:
        return
    yield longformer(options)


@torch.no_grad()
def longformer(options: Options) -> Row:
    """Two layers of Longformer base's attention, three global tokens, beside transformers on the same weights."""
    from transformers import LongformerConfig, LongformerModel

    from attnlib import Layout, load

    tokens = 1024 if options.quick else 4096
    config = LongformerConfig(
        vocab_size=100, hidden_size=HEADS * WIDTH, num_hidden_layers=2, num_attention_heads=HEADS, intermediate_size=2048,
        attention_window=512, max_position_embeddings=tokens + 2, pad_token_id=1,
    )  # fmt: skip
    theirs = LongformerModel(config).eval()
    with TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours: Any = load(folder)
    ids, marks = torch.randint(5, 100, (1, tokens)), torch.zeros(1, tokens, dtype=torch.long)
    marks[0, [0, 100, tokens // 2]] = 1
    layout = Layout.dense(1, tokens).tagged(global_tokens=marks)
    wanted = theirs(ids, global_attention_mask=marks)[0]
    error = float((ours(ids, layout).last - wanted).abs().max() / wanted.abs().max())
    if not error <= 2e-5:
        raise RuntimeError(f"Longformer differs from transformers by {error:.1e} of the greatest")
    mine, other = interleaved(
        lambda: lambda: ours(ids, Layout.dense(1, tokens).tagged(global_tokens=marks)),
        lambda: lambda: theirs(ids, global_attention_mask=marks), repeats=min(options.repeats, 5), clock=options.clock,
    )  # fmt: skip
    return compared("Longformer encode", mine, other, limit=1.0,
                    note=f"{tokens} tokens, window 512, 3 global, 2 layers, width {HEADS * WIDTH}, float32")  # fmt: skip


def work(name: str, tokens: int) -> Callable[[], object]:
    """Forward and backward of one pattern by its name."""
    return run(PATTERNS[name][0], tokens, True)


def run(mask: Mask | None, tokens: int, grad: bool) -> Callable[[], object]:
    """One call over new inputs; None is torch's own kernel over all earlier tokens."""
    q, k, v = (torch.randn(1, HEADS, tokens, WIDTH, requires_grad=grad) for _ in range(3))
    seed = torch.randn(1, HEADS, tokens, WIDTH)

    def once() -> Tensor:
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True) if mask is None else attend(q, k, v, mask=mask)
        if grad:
            out.backward(seed)
        return out

    return once


def _told(grad: bool) -> str:
    return f"H={HEADS}, D={WIDTH}, float32, {'forward and backward' if grad else 'forward'}"
