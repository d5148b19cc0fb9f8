"""Every backend against the reference in float64, on the very calls that a model makes."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from attnlib.attention.backends.choose import reference
from attnlib.attention.backends.protocol import AttentionCall, Backend
from attnlib.attention.scope import Door
from attnlib.attention.visibility import Visibility
from attnlib.inspect.subject import relative


@dataclass
class Worst:
    """What one backend did: its largest errors forward and backward, over how many calls, and what went wrong."""

    forward: float = 0.0
    backward: float = 0.0
    calls: int = 0
    gradients: int = 0
    failures: dict[str, str] = field(default_factory=dict)  # words of the error -> where


class BackendDoor(Door):
    """Stands at the door: every backend computes calls forward and backward, in `dtype`.

    Of calls that are alike in all but numbers, in one situation, the first two.

    refusals: backend -> reason -> where it was met first.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype, self.situation = dtype, ""
        self.worst: dict[str, Worst] = {}
        self.refusals: dict[str, dict[str, str]] = {}
        self._met: Counter[tuple[object, ...]] = Counter()

    def __call__(self, path: str, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall, run: Callable[[], Tensor]) -> Tensor:
        rule, sight = call.rule, call.visibility
        kind = (
            self.situation,
            sight.mask,
            call.parts,
            rule.scale,
            rule.softcap,
            q.shape,
            k.shape,
            v.shape,
            sight.q is sight.k,
        )
        self._met[kind] += 1
        if self._met[kind] > 2:
            return run()
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
            self._compare(f"{path}, {self.situation}", [t.detach().to(self.dtype) for t in (q, k, v)], call)
        return run()

    def _compare(self, where: str, given: Sequence[Tensor], call: AttentionCall) -> None:
        ours, exact = copied(call, self.dtype), copied(call, self.dtype, torch.float64)
        leaves = [t.double().requires_grad_() for t in given]
        wished = reference.Reference()(leaves[0], leaves[1], leaves[2], exact)
        weights = torch.randn(wished.shape, generator=torch.Generator().manual_seed(3)).to(wished)
        gradients = _gradients(wished, [*leaves, *_parameters(exact)], weights)
        for name, backend in Backend.known().items():
            try:
                self._run(backend, where, given, ours, wished.detach(), gradients, weights)
            except Exception as error:  # what a backend cannot compute it has to refuse
                words = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
                self.worst.setdefault(name, Worst()).failures.setdefault(words, where)

    def _run(
        self, backend: Backend, where: str, given: Sequence[Tensor], call: AttentionCall,
        wished: Tensor, gradients: list[Tensor | None], weights: Tensor,
    ) -> None:  # fmt: skip
        q, k, v = (t.detach().clone().requires_grad_() for t in given)
        call = call.again()
        reason = backend.refuses(q, k, v, call)
        if reason is not None:
            self.refusals.setdefault(backend.name, {}).setdefault(reason, where)
            with torch.no_grad():
                q, k, v = (t.detach() for t in (q, k, v))
                if backend.refuses(q, k, v, call) is not None:
                    return
                self._note(backend.name, backend(q, k, v, call), wished)
            return
        out = backend(q, k, v, call)
        worst = self._note(backend.name, out, wished)
        found = _gradients(out, [q, k, v, *_parameters(call)], weights.to(out.dtype))
        worst.gradients += 1
        worst.backward = max(worst.backward, _gradient_error(found, gradients))

    def _note(self, name: str, out: Tensor, wished: Tensor) -> Worst:
        worst = self.worst.setdefault(name, Worst())
        worst.calls += 1
        worst.forward = max(worst.forward, relative(out.detach(), wished, float(wished.abs().max())))
        return worst


def copied(call: AttentionCall, *dtypes: torch.dtype) -> AttentionCall:
    """The call with parameters of its own, rounded to one dtype after another, without dropout."""
    rule, shared = copy.deepcopy((call.rule, [t for t in call.terms if not any(t is own for own in call.rule.terms)]))
    for dtype in dtypes:
        rule = rule.to(dtype).requires_grad_()
        shared = [term.to(dtype).requires_grad_() for term in shared]
    sight = call.visibility
    return AttentionCall(Visibility(sight.mask, sight.q, sight.k, sight.heads), rule, 0.0, tuple(shared))


def _parameters(call: AttentionCall) -> list[Tensor]:
    found = {id(p): p for module in (call.rule, *call.terms) for p in module.parameters()}
    return list(found.values())


def _gradients(out: Tensor, leaves: list[Tensor], weights: Tensor) -> list[Tensor | None]:
    if not out.requires_grad:
        return [None] * len(leaves)
    return list(torch.autograd.grad(out, leaves, weights, allow_unused=True))


def _gradient_error(ours: list[Tensor | None], theirs: list[Tensor | None]) -> float:
    """Over the largest gradient of the call: one that cancels to nothing is all rounding in any kernel."""
    scale = max((float(t.abs().max()) for t in theirs if t is not None and t.numel()), default=0.0)
    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        if a is not None or b is not None:
            one, other = (t if t is not None else torch.zeros_like(cast(Tensor, o)) for t, o in ((a, b), (b, a)))
            worst = max(worst, relative(one, other, scale))
    return worst
