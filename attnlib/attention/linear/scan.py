"""One scan for every linear recurrence over a matrix state: in chunks, in parallel within each, or step by step.

S_t = diag(exp g_t) S_{t-1} + k_t u_t^T        y_t = S_t^T q_t
u_t = v_t                                      plain, with or without decay
u_t = beta_t (v_t - (exp(g_t) S_{t-1})^T k_t)  the delta rule (Widrow & Hoff 1960, Schlag et al. 2021, arXiv:2102.11174)

g is nothing, a scalar a head or a vector over the channels of k. Long texts go segment by segment, a few chunks each, so
that what is found on the way stays small; of it only the states between segments are kept for the backward, or all where
one segment is the whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attnlib.attention.linear.chunks import Cut, Found, chunks, outputs
from attnlib.attention.linear.gradients import gradients
from attnlib.attention.linear.steps import Steps

CHUNK = 64  # tokens that are computed together, at most; a power of two
SEGMENT = 1 << 18  # numbers of a tensor that are worked on at once: little enough to stay in a cache

Made = Callable[[Steps], Steps]


def scan(
    steps: Steps,
    state: Tensor | None = None,
    runs: Tensor | None = None,
    *,
    chunk: int = CHUNK,
    made: Made | None = None,
) -> tuple[Tensor, Tensor]:
    """y [B, G, R, T, E] and the state after the last token.

    state: what earlier tokens left, None = nothing. runs [B, T]: numbers of the texts in a row, the first of which goes on
    with the state. What is no token must come with k, v and decay 0. made: makes the steps of those given, each token
    alone and nothing learned in it, a segment at a time. No double backward.
    """
    tokens = steps.k.shape[2]
    if tokens == 0 or (tokens == 1 and runs is None):
        steps = steps if made is None else made(steps)
        state = _nothing(steps) if state is None else state
        if tokens == 0:
            return steps.v.new_zeros(*steps.q.shape[:4], steps.v.shape[3]), state
        return _step(steps, state)
    plan = _Plan.of(steps, runs, chunk_of(tokens, chunk), made)
    learns = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (*steps, state))
    if learns and not torch.compiler.is_compiling():
        return _Scan.apply(plan, state, *steps)  # type: ignore[no-any-return, no-untyped-call]
    parts = []
    for place in plan.segments:
        y, state, _ = plan.run(steps.part(*place), place, state)
        parts.append(y)
    assert state is not None
    return parts[0] if len(parts) == 1 else torch.cat(parts, 3), state


def chunk_of(tokens: int, most: int = CHUNK) -> int:
    """How many of so many tokens are computed together: a power of two."""
    return min(most, 1 << (tokens - 1).bit_length())


def _nothing(steps: Steps) -> Tensor:
    """The state before the first token."""
    return steps.k.new_zeros(*steps.k.shape[:2], steps.k.shape[3], steps.v.shape[3])


def _step(steps: Steps, state: Tensor) -> tuple[Tensor, Tensor]:
    """One token."""
    k, u = steps.k, steps.v  # [B, G, 1, D], [B, G, 1, E]
    if steps.decay is not None:
        factor = steps.decay.exp()
        state = state * (factor[..., None] if factor.dim() == 3 else factor.transpose(2, 3))
    if steps.beta is not None:
        u = steps.beta[..., None] * (u - k @ state)
    state = state + k.transpose(2, 3) * u
    return steps.q @ state[:, :, None], state


Place = tuple[int, int]  # the first token of a segment, and how many


class _Plan(NamedTuple):
    """How a scan goes: its segments, the tokens of a chunk, the texts, and what makes the steps."""

    segments: list[Place]
    chunk: int
    runs: Tensor | None
    made: Made | None

    @staticmethod
    def of(steps: Steps, runs: Tensor | None, chunk: int, made: Made | None) -> _Plan:
        batch, groups, readers, tokens, width = steps.q.shape
        size = SEGMENT // max(1, batch * groups * readers * max(width, steps.v.shape[3]))
        size = max(chunk, size // chunk * chunk)
        return _Plan([(first, min(size, tokens - first)) for first in range(0, tokens, size)], chunk, runs, made)

    def cut(self, steps: Steps, place: Place) -> Cut:
        """The steps of a segment, in chunks."""
        first, count = place
        runs = None if self.runs is None else self.runs[:, first : first + count]
        if runs is not None and self.runs is not None and first:
            runs = runs - self.runs[:, first - 1 : first]  # text 0 is the one that the state is of
        return Cut.of(steps, runs, self.chunk)

    def run(self, steps: Steps, place: Place, state: Tensor | None) -> tuple[Tensor, Tensor, Found]:
        """y of a segment, the state after it, and what was found on the way."""
        steps = steps if self.made is None else self.made(steps)
        cut = self.cut(steps, place)
        found, state = chunks(cut, _nothing(steps) if state is None else state)
        return outputs(cut, found)[:, :, :, : place[1]], state, found

    def back(
        self, steps: Steps, place: Place, before: Tensor | None, found: Found | None, dy: Tensor, after: Tensor
    ) -> tuple[list[Tensor | None], Tensor]:
        """The gradients of the steps of a segment, as they were given, and of the state before it."""
        leaves = made = steps
        if self.made is not None:
            with torch.enable_grad():
                leaves = Steps(*(t if t is None else t.detach().requires_grad_() for t in steps))  # type: ignore[arg-type]
                made = self.made(leaves)
        plain = Steps(*(t if t is None else t.detach() for t in made))  # type: ignore[arg-type]
        cut = self.cut(plain, place)
        if found is None:
            found, _ = chunks(cut, _nothing(plain) if before is None else before)
        grads, state = gradients(cut, found, dy, after, plain)
        if self.made is None:
            return list(grads), state
        pairs = [(t, grad) for t, grad in zip(made, grads) if t is not None]
        given = iter(torch.autograd.grad([t for t, _ in pairs], [t for t in leaves if t is not None], [g for _, g in pairs]))
        return [None if t is None else next(given) for t in leaves], state


class _Scan(torch.autograd.Function):
    """Keeps the steps and the state before each segment; the rest is found again in the backward, unless there is one."""

    @staticmethod
    def forward(ctx: Any, plan: _Plan, state: Tensor | None, *given: Tensor | None) -> tuple[Tensor, Tensor]:
        steps, y, states, found = Steps(*given), None, [], None  # type: ignore[arg-type]
        for first, count in plan.segments:
            states.append(state)
            part, state, found = plan.run(steps.part(first, count), (first, count), state)
            if y is None:  # heads side by side, as the projection after them reads them
                batch, groups, readers, _, width = part.shape
                y = part.new_empty(batch, steps.k.shape[2], groups, readers, width).permute(0, 2, 3, 1, 4)
            y[:, :, :, first : first + count] = part
        ctx.plan, ctx.found = plan, found if len(states) == 1 else None
        ctx.save_for_backward(*given, *states)
        assert y is not None and state is not None
        return y, state

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor, after: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # once: a checkpoint makes them again where they are asked for
        steps, states = Steps(*saved[:5]), saved[5:]
        grads = Steps(*(None if t is None else torch.empty_like(t) for t in steps))  # type: ignore[arg-type]
        for place, state in reversed(list(zip(ctx.plan.segments, states))):
            parts, after = ctx.plan.back(steps.part(*place), place, state, ctx.found, dy.narrow(3, *place), after)
            for whole, part in zip(grads.part(*place), parts):
                if whole is not None and part is not None:
                    whole.copy_(part)
        return None, None if states[0] is None else after, *grads
