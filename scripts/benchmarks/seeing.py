"""What it costs to see attention: maps and reductions of 16,384 tokens, nothing when off, short texts by transformers."""

from __future__ import annotations

import timeit
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import torch
from torch import Tensor

import attnlib
from attnlib.attention.scope import Scope
from attnlib.inspect import Summaries, record
from benchmarks import weights
from benchmarks.calls import peak, peak_method
from benchmarks.table import Options, Row, compared
from benchmarks.timing import interleaved

LONG, HEADS, SENTENCE = 16_384, 12, 24  # tokens and heads of the long text, tokens of a span
HEAD = "decoder.0.self.5"


def seeing(options: Options) -> Iterator[Row]:
    """Memory of one head's map, time of all reductions, cost of recording off and on."""
    tokens = 1024 if options.quick else LONG
    yield _memory(tokens)
    yield _reductions(tokens, options)
    yield _off(options)
    for name, make, ids in (("gpt2", weights.gpt2, (50257, 1, 128)), ("bert", weights.bert, (30522, 1, 128)),
                            ("gpt2, 4 texts", weights.gpt2, (50257, 4, 64))):  # fmt: skip
        yield _beside(name, make, ids, options)


def _long(tokens: int) -> tuple[Any, Tensor]:
    """One layer of GPT-2 small, with positions for the text."""
    changes = ("model.stack.num_layers=1", f"model.embedding.position.max_length={tokens}")
    model: Any = attnlib.build("gpt2_small", *changes).eval()
    return model, torch.randint(50257, (1, tokens), generator=torch.Generator().manual_seed(0))


def _memory(tokens: int) -> Row:
    with_map, plain = (peak(name, tokens) for name in ("seeing recorded", "seeing plain"))
    whole = tokens * tokens * HEADS * 4 / 2**20
    return Row(name="one head's map", ours=with_map - plain, baseline=whole, unit="MiB", value=(with_map - plain) / whole,
               limit=0.05, note=f"{tokens:,} tokens, causal, 1 of {HEADS} heads in float32, beyond the same forward's peak, "
               f"beside n^2 x heads floats; {peak_method()}")  # fmt: skip


def work(name: str, tokens: int) -> Callable[[], None]:
    """A forward of the long text, one head recorded or none; its map is held until the next."""
    model, ids = _long(tokens)
    held: list[Any] = []

    @torch.no_grad()
    def run() -> None:
        held.clear()
        if name == "plain":
            model(ids, head=False)
            return
        with record(model, heads=HEAD) as seen:
            model(ids, head=False)
        held.append(seen)

    return run


@torch.no_grad()
def _reductions(tokens: int, options: Options) -> Row:
    model, ids = _long(tokens)
    everything = Summaries(spans=[i // SENTENCE for i in range(tokens)])

    def ours() -> None:
        with record(model, weights=False, summaries=everything):
            model(ids, head=False)

    taken = interleaved(lambda: ours, lambda: lambda: model(ids, head=False), repeats=min(options.repeats, 3),
                        clock=options.clock)  # fmt: skip
    return compared("all reductions", *taken, limit=4.0, note=f"{tokens:,} tokens, {HEADS} heads of 64, one layer with its "
                    f"feed-forward: mass, entropy, distance, 16 targets, flow of {tokens // SENTENCE} spans, 9 windows; "
                    "beside the plain forward")  # fmt: skip


@torch.no_grad()
def _off(options: Options) -> Row:
    """What asking for a recording costs where there is none: once a forward, and once an attention."""
    model: Any = attnlib.build("tiny/gpt").eval()
    ids, layers = torch.randint(200, (1, 8)), len(model.stack.blocks)
    scope, calls = Scope(), 2000
    asks, forwards = [], []
    for _ in range(max(options.repeats, 3)):
        once = min(timeit.repeat(Scope.open_door, number=calls, repeat=3)) / calls
        each = min(timeit.repeat(lambda: scope.door is not None, number=calls, repeat=3)) / calls
        asks.append((once + layers * each) * 1e6)
        forwards.append(min(timeit.repeat(lambda: model(ids), number=20, repeat=3)) / 20 * 1e6)
    ask, forward = median(asks), median(forwards)
    return Row(name="recording off", ours=ask, baseline=forward, unit="us", value=ask / forward, limit=0.01,
               note=f"the asking, beside a forward of 8 tokens, {layers} layers of width {model.spec.d_model}")  # fmt: skip


@torch.no_grad()
def _beside(name: str, make: Callable[[bool], tuple[Any, Any]], shape: tuple[int, ...], options: Options) -> Row:
    """All maps of a short text beside transformers' eager attention, which gives its weights out."""
    ours, theirs = (model.eval() for model in make(options.quick))
    theirs.set_attn_implementation("eager")
    ids = torch.randint(shape[0], shape[1:], generator=torch.Generator().manual_seed(1))
    more = {"use_cache": False} if name.startswith("gpt2") else {}

    def recorded() -> Any:
        with record(ours) as seen:
            ours(ids, head=False)
        return seen

    def given() -> Any:
        return theirs.base_model(ids, output_attentions=True, **more).attentions

    seen, maps = recorded(), given()
    worst = max(float((seen[path].dense(row) - one[row]).abs().max())
                for path, one in zip(seen.weights, maps, strict=True) for row in range(shape[1]))  # fmt: skip
    if not worst < 1e-4:
        raise RuntimeError(f"{name}: weights differ by {worst:.1e}")
    taken = interleaved(lambda: recorded, lambda: given, repeats=2 * options.repeats, clock=options.clock)
    told = f"{shape[1]} x {shape[2]} tokens to hidden states, every map in float32; weights agree to {worst:.0e}"
    return compared(f"recording, {name}", *taken, limit=1.0, note=f"{told}; beside transformers, eager, output_attentions")
