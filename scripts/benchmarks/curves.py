"""Cost curves: seconds and bytes of a forward by length, for every kind of attention and mixer, one layer each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from attnlib.attention.scope import Scope
from attnlib.attention.softmax import MixerSpec
from attnlib.errors import AttnlibError
from attnlib.inspect.cost import Cost, Curve, exponent
from attnlib.inspect.counting import Counting
from attnlib.inspect.measuring import figures
from attnlib.inspect.on_meta import fresh
from attnlib.inspect.plot_cost import cost_figure, short
from attnlib.nn.meta import on_meta
from attnlib.spec import read
from attnlib.spec.places import FieldError
from benchmarks.table import Options, Row

MODEL, HEADS = 512, {"num_heads": 8}  # D = 64
CAUSAL = HEADS | {"mask": "causal"}
BIAS = CAUSAL | {"term": {"kind": "t5_relative", "both": False}}
NEAR = {"kind": "window", "before": 255}
KINDS: dict[str, tuple[dict[str, Any], str]] = {  # and the backend of its attention
    "softmax": (CAUSAL, "auto"),
    "softmax, scores kept": (CAUSAL, "reference"),
    "T5 bias, dense": (BIAS, "sdpa"),
    "T5 bias, row blocks": (BIAS, "chunked"),
    "window 256": (HEADS | {"mask": ["causal", NEAR]}, "auto"),
    "window 256 + 16 first": (HEADS | {"mask": ["causal", {"kind": "any", "masks": [NEAR, {"kind": "first", "count": 16}]}]},
                              "auto"),
    "BigBird": (HEADS | {"mask": "big_bird"}, "auto"),
    "strided 64": (HEADS | {"mask": ["causal", {"kind": "strided", "stride": 64}]}, "auto"),
    "dilated segments": (HEADS | {"mask": ["causal", {"kind": "dilated_segments", "lengths": [256, 2048], "rates": [1, 8]}]},
                         "auto"),
    "block routing": (CAUSAL | {"term": {"kind": "block_routing", "size": 128, "count": 4}}, "auto"),
    "hash buckets": (CAUSAL | {"term": {"kind": "lsh", "buckets": 32, "rounds": 2}}, "auto"),
}  # fmt: skip
GIVEN: dict[str, dict[str, Any]] = {"performer": {"num_features": 128}, "ssd": {"d_head": 64, "d_state": 64},
                                    "linformer": {"max_length": 16_384}}  # fmt: skip
LISTED = ("softmax", "local_global", "beside")  # those are above, or need more than a kind
BUDGET = 240.0  # seconds of all kinds, in equal parts; longer texts are then left out


def curves(options: Options) -> Iterator[Row]:
    """A row a kind: milliseconds at its longest text, and the power of n by which its time and its memory grow."""
    lengths = (128, 256, 512) if options.quick else (1024, 2048, 4096, 8192, 16384)
    found: list[Curve] = []
    wanted = kinds()
    for name, (tree, backend) in wanted.items():
        curve = measured(name, tree, backend, lengths, (BUDGET / 5 if options.quick else BUDGET) / len(wanted))
        found.append(curve)
        times, bytes_held = curve.points("seconds"), curve.points("measured_memory")
        last = max(times)  # the shortest is always measured
        yield Row(name=f"curves {name}", ours=times[last] * 1e3, baseline=None, unit=f"ms, {last} tokens", judged="exponent",
                  value=exponent(times) or 0.0, note=f"memory as n^{exponent(bytes_held) or 0.0:.2f}")  # fmt: skip
    print(table(found, lengths) + "\n", flush=True)
    if options.png is not None:
        cost_figure(found, options.png, title="Cost of one layer by length, 8 heads of 64")


def kinds() -> dict[str, tuple[dict[str, Any], str]]:
    """Those named above, and every other kind of mixer there is: causal where it can be, else over the whole text."""
    found = dict(KINDS)
    for kind, cls in MixerSpec.kinds().items():
        if kind in LISTED:
            continue
        heads = HEADS if "num_heads" in cls.model_fields else {}
        for mask in ({"mask": "causal"}, {}):
            tree = {"kind": kind} | heads | mask | GIVEN.get(kind, {})
            try:
                read(MixerSpec, tree).check(d_model=MODEL, role="self")
            except (AttnlibError, FieldError):
                continue
            found[kind if mask else f"{kind}, both ways"] = (tree, "auto")
            break
    return found


def measured(name: str, tree: dict[str, Any], backend: str, lengths: Sequence[int], seconds: float) -> Curve:
    """One mixer, predicted and then measured."""
    spec = read(MixerSpec, tree)
    with on_meta():
        shape = spec.build(d_model=MODEL, layer=0).eval()
    costs = {n: _predicted(shape, n, backend) for n in lengths}
    torch.manual_seed(0)
    mixer = spec.build(d_model=MODEL, layer=0).eval()
    with torch.no_grad():
        room = {n: one.memory for n, one in costs.items()}
        taken = dict(figures(partial(_forward, mixer, backend), room, seconds=seconds))
    rows = [replace(one, seconds=taken[n][0], measured_memory=taken[n][1]) for n, one in costs.items() if n in taken]
    return Curve(name, tuple(rows), {})


def _predicted(mixer: nn.Module, tokens: int, backend: str) -> Cost:
    x, layout = torch.zeros(1, tokens, MODEL, device="meta"), fresh(1, tokens, device="meta")
    with Counting(mixer, x, layout.positions, backend=backend) as seen:
        mixer(x, layout, Scope())
    return Cost(tokens, seen.flops, seen.flops, seen.peak, seen.peak, None, None, None)


def _forward(mixer: nn.Module, backend: str, tokens: int) -> Callable[[], object]:
    x = torch.randn(1, tokens, MODEL)
    return lambda: mixer(x, fresh(1, tokens), Scope(backend=backend))


def table(found: Sequence[Curve], lengths: Sequence[int]) -> str:
    """Markdown: milliseconds by length, memory at the greatest length, and the powers of n."""
    lines = ["| one layer, forward | " + " | ".join(f"ms at {short(n)}" for n in lengths)
             + f" | time | MiB at {short(lengths[-1])} | memory |", "|---|" + "---|" * (len(lengths) + 3)]  # fmt: skip
    for curve in found:
        times, held = curve.points("seconds"), curve.points("measured_memory")
        cells = [f"{times[n] * 1e3:,.0f}" if n in times else "" for n in lengths]
        most = f"{held[lengths[-1]] / 2**20:,.0f}" if lengths[-1] in held else ""
        powers = [f"n^{exponent(points) or 0.0:.2f}" for points in (times, held)]
        lines.append("| " + " | ".join([curve.name, *cells, powers[0], most, powers[1]]) + " |")
    return "\n".join(lines)
