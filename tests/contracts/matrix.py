"""Running cells of the contract matrix: one call on one backend against the oracle, in value and gradient."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

import oracle
import torch
from cases import HEADS, LAYOUTS, RARE, RULES, TERMS, WIDTH, LayoutCase, mask_cases, randomised
from torch import Tensor

from attnlib.attention.backends.choose import backend_named
from attnlib.attention.backends.protocol import AttentionCall
from attnlib.attention.biases import ScoreTerm
from attnlib.attention.scores import ScoreRule
from attnlib.attention.visibility import Visibility


class Cell(NamedTuple):
    mask: str
    layout: str
    term: str
    rule: str
    groups: int
    width: int  # of a value


class Problem(NamedTuple):
    """One cell made: its inputs, its call, and the oracle's answer with the gradients of all that learns."""

    inputs: list[Tensor]  # q, k, v
    learned: list[Tensor]
    call: AttentionCall
    out: Tensor
    grads: list[Tensor]
    weight: Tensor  # the loss is sum(out * weight)
    blind: Tensor  # [B, H, Q]: sees nothing
    unread: Tensor  # [B, H, Q]: of whose scores nothing comes out


def cells(masks: list[str], layout: str, terms: list[str], rules: list[str]) -> Iterator[Cell]:
    """The product; groups and value widths rotate through it, so that each meets each; rare parts do so too."""
    often = [[part for part in parts if part not in RARE] for parts in (terms, rules)]
    rare = [(term, rule) for term in terms for rule in rules if (term in RARE) != (rule in RARE)]
    turn = [*LAYOUTS].index(layout)
    number = 0
    for i, mask in enumerate(masks):
        few = [rare[(turn * 7 + i * 3 + j) * 11 % len(rare)] for j in range(3)] if rare else []
        for term, rule in [*product(*often), *few]:
            yield Cell(mask, layout, term, rule, (1, 2, 4)[number % 3], (WIDTH, 5)[number // 3 % 2])
            number += 1


def make(cell: Cell, where: LayoutCase, case: oracle.MaskCase, seen: Tensor) -> Problem:
    """Inputs, call and the oracle's answers of one cell."""
    batch, _, queries, keys = seen.shape
    shapes = [(HEADS, queries, WIDTH), (cell.groups, keys, WIDTH), (cell.groups, keys, cell.width)]
    q, k, v = inputs = [torch.randn(batch, *shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    wanted = RULES[cell.rule]
    terms: list[ScoreTerm] = [] if cell.term == "none" else [TERMS[cell.term].make()]
    normaliser = wanted.normaliser()
    learned = randomised(*terms, normaliser)
    rule = ScoreRule(scale=wanted.scale, softcap=wanted.softcap, normaliser=normaliser, terms=terms)
    call = AttentionCall(Visibility(case.mask, where.q, where.k, HEADS), rule)
    added = TERMS[cell.term].added(terms[0], q, k, where.queries, where.keys) if terms else None
    if added is not None and (added == -torch.inf).any():  # what a term hides is not seen
        seen = seen & (added > -torch.inf)
        added = added.masked_fill(added == -torch.inf, 0.0)
    sink = getattr(normaliser, "sink", None)
    weigh = None if wanted.weigh is None else partial(wanted.weigh, normaliser)
    out = oracle.attention(q, k, v, seen, scale=wanted.scale, softcap=wanted.softcap, sink=sink, added=added, weigh=weigh)
    weight = torch.randn_like(out)
    grads = torch.autograd.grad((out * weight).sum(), [*inputs, *learned], allow_unused=True)
    filled = [torch.zeros_like(x) if g is None else g for g, x in zip(grads, [*inputs, *learned])]
    blind = ~seen.any(-1).expand(-1, HEADS, -1)
    unread = blind.all(1, keepdim=True).expand_as(blind) if wanted.mixes else blind
    return Problem(inputs, learned, call, out.detach(), filled, weight, blind, unread)


def check(problem: Problem, backend: str, *, grad: bool, tolerance: float = 1e-9) -> None:
    """The backend's answer and gradients are the oracle's; a blind query gets zeros in both."""
    q, k, v = problem.inputs
    run = backend_named(backend)
    call = problem.call
    with torch.set_grad_enabled(grad):
        out = run(
            q, k, v, AttentionCall(Visibility(call.visibility.mask, call.visibility.q, call.visibility.k, HEADS), call.rule)
        )
    assert out.shape == problem.out.shape and out.dtype == q.dtype
    _near(out.detach(), problem.out, tolerance, "value")
    assert not out.detach()[problem.blind].any(), "a blind query gives zeros"
    if not grad:
        return
    asked = [*problem.inputs, *problem.learned]
    grads = torch.autograd.grad((out * problem.weight).sum(), asked, allow_unused=True)
    for i, (got, wanted) in enumerate(zip(grads, problem.grads)):
        name = ("q", "k", "v")[i] if i < 3 else f"learned {i - 3}"
        _near(torch.zeros_like(wanted) if got is None else got, wanted, tolerance, f"gradient of {name}")
    got_q = grads[0]
    assert got_q is not None and not got_q[problem.unread].any(), "a blind query gets no gradient"


def _near(got: Tensor, wanted: Tensor, tolerance: float, what: str) -> None:
    assert torch.isfinite(got).all(), f"{what} is not finite"
    error = (got - wanted).abs().max().item() if wanted.numel() else 0.0
    bound = tolerance * max(1.0, wanted.abs().max().item() if wanted.numel() else 0.0)
    assert error <= bound, f"{what} is off by {error:.2e}"


class Line(NamedTuple):
    backend: str
    when: dict[str, set[str]]
    reason: str


def refusal_lines(table: str | None = None) -> list[Line]:
    """The committed table, or another one."""
    lines = []
    for text in (table or (Path(__file__).parent / "refusals.txt").read_text()).splitlines():
        if not text.strip() or text.startswith("#"):
            continue
        backend, when, reason = (part.strip() for part in text.split("|"))
        axes = {axis: set(values.split(",")) for axis, values in (word.split("=") for word in when.split())}
        lines.append(Line(backend, axes, reason))
    return lines


def listed(lines: list[Line], backend: str, cell: Cell, *, grad: bool) -> int | None:
    """Which line of the table fits this cell of this backend; None = it must be computed."""
    facts = {
        "mask": {cell.mask, cell.mask.partition("#")[0]},
        "layout": {cell.layout},
        "term": {cell.term},
        "rule": {cell.rule},
        "grad": {"yes" if grad else "no"},
    }
    for number, line in enumerate(lines):
        if line.backend == backend and all(facts[axis] & values for axis, values in line.when.items()):
            return number
    return None


def run_cells(
    backends: list[str],
    layout: str,
    masks: dict[str, oracle.MaskCase],
    terms: list[str],
    rules: list[str],
    more_refusals: str = "#",
) -> tuple[list[str], set[int], int]:
    """Every cell on every backend: what went wrong, which lines of the table were met, how many cells were computed."""
    lines, wrong, met, computed = refusal_lines(more_refusals) + refusal_lines(), [], set(), 0
    where = LAYOUTS[layout]()
    seen = {
        name: oracle.visible(case.sees, where.queries, where.keys, HEADS if case.mask.by_head() else 1)
        for name, case in masks.items()
    }
    for number, cell in enumerate(cells([*masks], layout, terms, rules)):
        problem = make(cell, where, masks[cell.mask], seen[cell.mask])
        for backend in backends:
            grad = backend != "flex"
            with torch.set_grad_enabled(grad):
                reason = backend_named(backend).refuses(*problem.inputs, problem.call)
            line = listed(lines, backend, cell, grad=grad)
            if reason != (None if line is None else lines[line].reason):
                wrong.append(f"{backend} {cell}: refuses with {reason!r}, the table says {line and lines[line].reason!r}")
            elif line is not None:
                met.add(line)
            elif reason is None and (backend != "flex" or number % 13 == 4):  # some 15 ms each: a rotating part
                computed += 1
                try:
                    check(problem, backend, grad=grad)
                except Exception as error:
                    wrong.append(f"{backend} {cell}: {type(error).__name__}: {error}")
    return wrong, met, computed


def all_masks() -> dict[str, oracle.MaskCase]:
    return dict(mask_cases())
