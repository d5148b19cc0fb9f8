"""Compiled models equal eager ones, in one graph; decoding with a static cache compiles one step once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from test_ordinary_modules import inputs, run
from torch._dynamo.utils import counters
from toys import ALL, CAUSAL, build, ids, laid, near, texts

from attnlib.attention.biases import TermSpec
from attnlib.attention.rotary import Scaling
from attnlib.attention.scores import NormaliserSpec
from attnlib.attention.softmax import MixerSpec
from attnlib.layout import Layout
from attnlib.models.block import BlockSpec
from attnlib.models.spec import ModelSpec
from attnlib.spec import Spec, read

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of torch's own compiler
    pytest.mark.timeout(300),
]
FEW = "gpt2 sinks_alibi t5_shared bert local_global bart"  # in all their layers, the others in one
CACHED = (MixerSpec, TermSpec, NormaliserSpec, Scaling)  # what reads a cache, or keeps one


def parts(name: str, *bases: type[Spec]) -> set[Any]:
    """The kinds of parts that a toy is made of, below some slots, and how its blocks are wired."""
    found: set[Any] = set()
    queue: list[Any] = [read(ModelSpec, ALL[name])]
    for part in queue:
        if isinstance(part, Spec):
            found |= {type(part)} if isinstance(part, bases) else set()
            found |= {part.placement} if isinstance(part, BlockSpec) and Spec in bases else set()
            queue += [getattr(part, field) for field in type(part).model_fields]
        elif isinstance(part, dict | tuple):
            queue += part.values() if isinstance(part, dict) else part
    return found


def covering(names: Iterable[str], *bases: type[Spec]) -> list[Any]:
    """A few, and as many others, marked as slow, as it takes to hold every kind of part that the names hold."""
    held = {name: parts(name, *bases) for name in names}
    chosen = few = [name for name in FEW.split() if name in held]
    left = set().union(*held.values()) - set().union(*(held[name] for name in chosen))
    while left:
        chosen = [*chosen, max(held, key=lambda name: len(held[name] & left))]
        left -= held[chosen[-1]]
    return [name if name in few else pytest.param(name, marks=pytest.mark.slow) for name in chosen]


def depth(name: str) -> int | None:
    """How many layers are compiled: all of them, or one, for the next would be traced alike."""
    return None if name in FEW.split() else 1


@pytest.mark.parametrize("name", covering(ALL, Spec))
def test_compiled_forward_and_backward_equal_eager_in_one_graph(name: str) -> None:
    model = build(name, layers=depth(name))
    run(name, model).square().sum().backward()
    wanted = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    eager = run(name, model).detach()
    model.zero_grad()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    got = run(name, compiled)
    near(got.detach(), eager)
    got.square().sum().backward()
    for p, grad in zip(model.parameters(), wanted):
        assert (p.grad is None) == (grad is None)
        if grad is not None:
            near(p.grad, grad)


@pytest.mark.parametrize("name", ["llama", "sinks_alibi", "bert"])
def test_compiled_padded_and_packed_batches_equal_eager(name: str) -> None:
    model = build(name, layers=1)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=False)
    table, _, padded = laid(texts((5, 2, 7), 1), "left")
    for layout in (padded, Layout.packed([[3, 4], [7], [2, 2]], 7)):
        near(compiled(table, layout).last, model(table, layout).last)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "bert", "t5"])
def test_inductor_equals_eager(name: str) -> None:
    model = build(name, dtype=torch.float32, layers=1)  # of the next each kernel would be the same
    compiled = torch.compile(model, fullgraph=True)
    near(run(name, compiled), run(name, model), 2e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", covering(CAUSAL, *CACHED))
def test_decoding_with_a_static_cache_does_not_recompile(name: str) -> None:
    model, eager = (build(name, layers=depth(name)) for _ in range(2))
    table = ids(2, 8)
    states = []
    for m in (model, eager):
        (given,) = inputs(name)[:-1] or (None,)
        state = (
            m.begin(given, cache="static", capacity=14)
            if given is not None
            else m.begin(batch=2, cache="static", capacity=14)
        )
        m.step(table[:, :4], None, state)
        states.append(state)
    part = model.decoder if hasattr(model, "decoder") else model
    part.compile(fullgraph=True, backend="aot_eager", dynamic=False)
    counters.clear()
    for i in range(4, 8):
        if i == 5:  # the first step compiles; from then on nothing may
            frames = counters["stats"]["unique_graphs"]
            assert frames >= 1
        got = model.step(table[:, i : i + 1], None, states[0])
        near(got, eager.step(table[:, i : i + 1], None, states[1]))
    assert counters["stats"]["unique_graphs"] == frames
    assert not counters["graph_break"]


@pytest.mark.parametrize("backend", ["reference", "chunked", "sdpa", "varlen"])
def test_attend_compiles_in_one_graph(backend: str) -> None:
    from attnlib import Causal, Window, attend

    mask = Causal() & Window(before=2)  # a spec is made outside of what is traced

    def f(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return attend(q, k, v, mask=mask, backend=backend)

    q, k, v = (torch.randn(2, h, 5, 6, dtype=torch.float64, requires_grad=True) for h in (4, 2, 2))
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    near(compiled(q, k, v), f(q, k, v))
    wanted = torch.autograd.grad(f(q, k, v).square().sum(), [q, k, v])
    for a, b in zip(torch.autograd.grad(compiled(q, k, v).square().sum(), [q, k, v]), wanted):
        near(a, b)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("mask", ["none", "bool", "float"])
def test_attend_with_tensors_compiles_in_one_graph(mask: str, causal: bool) -> None:
    from attnlib import attend

    q, k, v = (torch.randn(2, 4, 5, 6, dtype=torch.float64) for _ in range(3))
    table = {"none": None, "bool": torch.rand(5, 5) > 0.4, "float": torch.randn(2, 1, 5, 5, dtype=torch.float64)}[mask]

    def f(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, table: torch.Tensor | None) -> torch.Tensor:
        return attend(q, k, v, mask=table, is_causal=causal)

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    near(compiled(q, k, v, table), f(q, k, v, table))


@pytest.mark.parametrize("name", ["t5_shared", "local_global"])
def test_recomputed_blocks_compile_in_one_graph(name: str) -> None:
    model = build(name)
    run(name, model).square().sum().backward()
    wanted = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model.stack.checkpointing = True
    run(name, torch.compile(model, fullgraph=True, backend="aot_eager")).square().sum().backward()
    for p, grad in zip(model.parameters(), wanted):
        near(p.grad, grad)


@pytest.mark.parametrize("name", ["t5_shared", "softcap_sink"])
def test_chunked_models_compile_in_one_graph(name: str) -> None:
    model = build(name, layers=1)
    run(name, model).square().sum().backward()
    wanted = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model.stack.backend = "chunked"
    run(name, torch.compile(model, fullgraph=True, backend="aot_eager")).square().sum().backward()
    for p, grad in zip(model.parameters(), wanted):
        near(p.grad, grad)
