"""Mixers of linear cost: time by length, beside softmax attention, and the cost of a decode step after a long text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from math import log2
from statistics import median
from typing import Any

import torch
from torch import nn

from attnlib.attention.caches import Growing
from attnlib.attention.scope import Scope
from attnlib.attention.softmax import MixerSpec
from attnlib.layout import Layout
from attnlib.spec import read
from benchmarks.calls import slope
from benchmarks.table import Options, Row, compared
from benchmarks.timing import CLOCKS, interleaved

WIDTH, HEADS = 512, {"num_heads": 8, "mask": "causal"}  # D = 64
PARALLEL: dict[str, dict[str, Any]] = {
    "linear": {"kind": "linear"} | HEADS,
    "performer": {"kind": "performer", "num_features": 128} | HEADS,
    "retention": {"kind": "retention"} | HEADS,
    "gla": {"kind": "gla"} | HEADS,
    "delta": {"kind": "delta"} | HEADS,
    "gated_delta": {"kind": "gated_delta"} | HEADS,
    "ssd": {"kind": "ssd", "d_head": 64, "d_state": 64} | HEADS,
}
RECURRENT: dict[str, dict[str, Any]] = {kind: {"kind": kind, "mask": "causal"} for kind in ("gru", "lstm", "min_gru")}
AT = 4096  # tokens from which the training forms must be faster than softmax attention
BY_TOKEN = ("gru", "lstm")  # token after token at any length: few and short runs tell as much


def linear(options: Options) -> Iterator[Row]:
    """Whole mixers with their projections: forward and backward by length, a decode step after a short and a long text."""
    lengths = (256, 512, 1024) if options.quick else (1024, 2048, 4096, 8192, 16384)
    softmax = mixer(HEADS)
    base = {n: _seconds(_training(softmax, n), options) for n in lengths[:4]}
    for name, tree in (PARALLEL | RECURRENT).items():
        built, by_token = mixer(tree), name in BY_TOKEN
        taken = {n: _seconds(_training(built, n), options) for n in (lengths[:3] if by_token else lengths)}
        told = ", ".join(f"{n}: {seconds * 1e3:.0f}" for n, seconds in taken.items())
        last, at = max(taken), min(AT, lengths[-1])
        yield Row(name=f"{name} growth", ours=taken[last] * 1e3, baseline=taken[last // 2] * 1e3, unit="ms", limit=1.2,
                  judged="exponent", value=slope(taken), note=f"forward and backward, ms by tokens {told}")  # fmt: skip
        repeats = min(3, options.repeats) if by_token else options.repeats
        ours, theirs = interleaved(partial(_training, built, at), partial(_training, softmax, at), repeats=repeats,
                                   clock=options.clock)  # fmt: skip
        yield compared(f"{name} beside softmax", ours, theirs, limit=1.0 if name in PARALLEL and at == AT else None,
                       note=f"{at} tokens, H=8, D=64, forward and backward, {repeats} repeats; faster from "
                       f"{crossing(taken, base)}")  # fmt: skip
        yield _decode(name, built, options)


def crossing(taken: dict[int, float], base: dict[int, float]) -> str:
    """The least measured length at which `taken` is below `base`, else where they would soon meet."""
    found = next((n for n in base if n in taken and taken[n] < base[n]), None)
    if found is not None:
        return f"{found:,}"
    last = max(n for n in taken if n in base)
    ours, theirs = (log2(times[last] / times[last // 2]) for times in (taken, base))
    if max(base) > last:
        theirs = log2(base[max(base)] / base[max(base) // 2])
    doublings = log2(taken[last] / base[last]) / (theirs - ours) if theirs > ours else float("inf")
    if doublings > 4:
        return f"beyond {last:,}"
    return f"about {last * 2**doublings:,.0f}, by the powers of their last doublings"


def mixer(tree: dict[str, Any]) -> nn.Module:
    """One mixer of width 512."""
    torch.manual_seed(0)
    return read(MixerSpec, tree).build(d_model=WIDTH, layer=0)


def _training(built: nn.Module, tokens: int) -> Callable[[], None]:
    """Forward and backward of one text."""
    x = torch.randn(1, tokens, WIDTH, requires_grad=True)

    def run() -> None:
        built.zero_grad()
        built(x).sum().backward()

    return run


def _seconds(run: Callable[[], None], options: Options) -> float:
    """The least of a few."""
    now, found = CLOCKS[options.clock], []
    run()
    for _ in range(max(2, options.repeats // 2)):
        begun = now()
        run()
        found.append(now() - begun)
    return min(found)


@torch.no_grad()
def _decode(name: str, built: Any, options: Options) -> Row:
    """A token after a long text beside one after a short text."""
    short, long = (64, 1024) if options.quick else (1024, 65536)
    steps, size = {}, {}
    for tokens in (short, long):
        cache = built.new_cache(Growing())
        for first in range(0, tokens, 1024):
            n = min(1024, tokens - first)
            built(torch.randn(1, n, WIDTH), Layout.dense(1, n, start=first), Scope(), cache=cache)
        steps[tokens] = partial(built, torch.randn(1, 1, WIDTH), Layout.dense(1, 1, start=tokens), Scope(), cache=cache)
        size[tokens] = cache.nbytes()
    ours, theirs = interleaved(lambda: steps[long], lambda: steps[short], repeats=options.repeats, clock=options.clock,
                               calls=20)  # fmt: skip
    value = median(ours) / median(theirs)
    told = f"one token after {long} beside after {short}; state {size[long]:,} bytes, {size[short]:,} then"
    return Row(name=f"{name} decode", ours=median(ours), baseline=median(theirs), unit="ms", value=value, limit=1.2,
               note=told)  # fmt: skip
