"""The scan in chunks and segments is the recurrence, token by token, in values and in gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from attnlib.attention.linear import scan as scans
from attnlib.attention.linear.decayed import LEAST, decayed
from attnlib.attention.linear.scan import scan
from attnlib.attention.linear.steps import Steps

B, G, R, D, E = 2, 2, 2, 3, 4
KINDS = ["plain", "head", "channel", "delta", "delta head", "delta channel"]


def steps_of(kind: str, tokens: int, gates: float = 1.0, dtype: torch.dtype = torch.float64) -> Steps:
    made = torch.Generator().manual_seed(tokens)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(B, G, *shape, generator=made, dtype=dtype)

    q, k, v, beta, decay = drawn(R, tokens, D), drawn(tokens, D), drawn(tokens, E), None, None
    if "delta" in kind:
        k, beta = F.normalize(k, dim=-1), drawn(tokens).sigmoid()
    if "head" in kind or "channel" in kind:
        decay = F.logsigmoid(gates * (drawn(tokens) if "head" in kind else drawn(tokens, D)))
    return Steps(*(None if t is None else t.requires_grad_() for t in (q, k, v, decay, beta)))


def recurrence(steps: Steps, state: Tensor, runs: Tensor | None) -> tuple[Tensor, Tensor]:
    """Token by token: decay, write, read."""
    outputs, before = [], torch.zeros(B, dtype=torch.long)
    for t in range(steps.k.shape[2]):
        if runs is not None:
            state = state * (runs[:, t] == before)[:, None, None, None]
            before = runs[:, t]
        k, u = steps.k[:, :, t], steps.v[:, :, t]
        if steps.decay is not None:
            decay = steps.decay[:, :, t].exp()
            state = state * (decay[..., None, None] if decay.dim() == 2 else decay[..., None])
        if steps.beta is not None:
            u = steps.beta[:, :, t, None] * (u - torch.einsum("bgd,bgde->bge", k, state))
        state = state + torch.einsum("bgd,bge->bgde", k, u)
        outputs.append(torch.einsum("bgrd,bgde->bgre", steps.q[:, :, :, t], state))
    return torch.stack(outputs, 3), state


def gradients(result: tuple[Tensor, Tensor], leaves: list[Tensor]) -> tuple[Tensor, ...]:
    made = torch.Generator().manual_seed(1)
    given = [torch.randn(t.shape, generator=made, dtype=torch.float64).to(t.dtype) for t in result]
    return torch.autograd.grad(result, leaves, given)


@pytest.mark.parametrize("segment", [1, 1 << 18])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_segments_of_chunks_are_the_recurrence(
    kind: str, packed: bool, segment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 21 tokens in chunks of 4, a segment each or all in one; texts begin within a chunk, at its end and nowhere."""
    monkeypatch.setattr(scans, "SEGMENT", segment)
    steps, state = steps_of(kind, 21), torch.randn(B, G, D, E, dtype=torch.float64, requires_grad=True)
    at = torch.arange(21)
    runs = torch.stack([(at > 5).long() + (at >= 12).long(), torch.zeros(21, dtype=torch.long)]) if packed else None
    leaves = [t for t in (*steps, state) if t is not None]
    found, wanted = scan(steps, state, runs, chunk=4), recurrence(steps, state, runs)
    with torch.no_grad():
        unkept = scan(steps, state, runs, chunk=4)
    torch.testing.assert_close([*found, *gradients(found, leaves)], [*wanted, *gradients(wanted, leaves)])
    torch.testing.assert_close(unkept, found)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_segment_makes_of_its_steps_passes_gradients_on(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scans, "SEGMENT", 1)

    def made(steps: Steps) -> Steps:
        return steps._replace(q=torch.cat([steps.q.tanh(), steps.q], -1), k=torch.cat([steps.k.sin(), steps.k], -1) / 2)

    steps = steps_of(kind if "channel" not in kind else kind.replace("channel", "head"), 9)
    leaves = [t for t in steps if t is not None]
    found, wanted = scan(steps, chunk=4, made=made), scan(made(steps), chunk=4)
    torch.testing.assert_close([*found, *gradients(found, leaves)], [*wanted, *gradients(wanted, leaves)])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "head" in kind or "channel" in kind])
def test_gates_that_shut_at_once_stay_finite_in_value_and_gradient(kind: str) -> None:
    """Decays of up to 60 a token, in single precision."""
    steps = steps_of(kind, 70, gates=20.0, dtype=torch.float32)
    leaves = [t for t in steps if t is not None]
    found = scan(steps)
    exact = Steps(*(None if t is None else t.detach().double().requires_grad_() for t in steps))
    wanted = recurrence(exact, torch.zeros(B, G, D, E, dtype=torch.float64), None)
    given = gradients(found, leaves), gradients(wanted, [t for t in exact if t is not None])
    for ours, theirs in zip((*found, *given[0]), (*wanted, *given[1])):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-3, atol=1e-3)


def test_nothing_is_left_of_a_decay_that_no_sum_could_see() -> None:
    x = torch.tensor([0.0, -1.0, LEAST + 1, LEAST - 1, -200.0, -float("inf")])
    torch.testing.assert_close(decayed(x.clone()), torch.where(x < LEAST, 0.0, x.exp()), rtol=0, atol=0)


def test_a_long_text_keeps_its_steps_and_few_states() -> None:
    """What autograd holds between forward and backward, in numbers."""
    steps, held = steps_of("channel", 4096, dtype=torch.float32), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: held.append(t.numel()) or t, lambda t: t):
        scan(steps)
    given = sum(t.numel() for t in steps if t is not None)
    assert given <= sum(held) <= 1.05 * given
