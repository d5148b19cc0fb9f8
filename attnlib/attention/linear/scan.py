"""One scan for every linear recurrence over a matrix state: in chunks, in parallel within each, or step by step.

S_t = diag(exp g_t) S_{t-1} + k_t u_t^T        y_t = S_t^T q_t
u_t = v_t                                      plain, with or without decay
u_t = beta_t (v_t - (exp(g_t) S_{t-1})^T k_t)  the delta rule (Widrow & Hoff 1960, Schlag et al. 2021, arXiv:2102.11174)

g is nothing, a scalar a head or a vector over the channels of k. Within a chunk pairs of tokens are weighed by
exp(b_i - b_j), b the running sum of g, which is at most 1; from chunk to chunk only the state passes (Sun et al. 2023,
arXiv:2307.08621; Yang et al. 2023, arXiv:2312.06635). The delta rule is solved within a chunk by one triangular system, the
WY form of a product of Householder-like factors (Yang et al. 2024, arXiv:2406.06484).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 64  # tokens that are computed together, at most; a power of two
BASE = 4  # tokens whose pairs are weighed one by one under a decay a channel


class Steps(NamedTuple):
    """What T tokens do to a state [B, G, D, E] of G heads that R query heads each read.

    q [B, G, R, T, D], k [B, G, T, D], v [B, G, T, E]; decay: g <= 0, [B, G, T] or [B, G, T, D]; beta [B, G, T].
    """

    q: Tensor
    k: Tensor
    v: Tensor
    decay: Tensor | None = None
    beta: Tensor | None = None

    def flip(self) -> Steps:
        """The tokens in reverse order."""
        time = (3, 2, 2, 2, 2)
        return Steps(*(None if t is None else t.flip(dim) for t, dim in zip(self, time)))  # type: ignore[arg-type]


def scan(
    steps: Steps, state: Tensor | None = None, runs: Tensor | None = None, *, chunk: int = CHUNK
) -> tuple[Tensor, Tensor]:
    """y [B, G, R, T, E] and the state after the last token.

    state: what earlier tokens left, None = nothing. runs [B, T]: numbers of the texts in a row, the first of which goes on
    with the state. What is no token must come with k, v and decay 0.
    """
    q, k, v = steps.q, steps.k, steps.v
    if state is None:
        state = k.new_zeros(*k.shape[:2], k.shape[3], v.shape[3])
    if k.shape[2] == 0:
        return v.new_zeros(*q.shape[:4], v.shape[3]), state
    if k.shape[2] == 1 and runs is None:
        return _step(steps, state)
    size = chunk_of(k.shape[2], chunk)
    y, state = _chunks(_Cut.of(steps, runs, size), state)
    return y.flatten(3, 4)[:, :, :, : k.shape[2]], state


def chunk_of(tokens: int, most: int = CHUNK) -> int:
    """How many of so many tokens are computed together: a power of two."""
    return min(most, 1 << (tokens - 1).bit_length())


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


class _Cut(NamedTuple):
    """Steps in N chunks of C: q [B, G, R, N, C, D], k [B, G, N, C, D], v [B, G, N, C, E].

    total: running sum b of the decay, [B, G, N, C, 1 or D]. pairs: which earlier token of its chunk a token sees,
    [C, C] or [B, 1, N, C, C]; carried [B, 1, N, C, 1]: which tokens see the state before the chunk; left: which ones
    the state after it keeps.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    total: Tensor | None
    beta: Tensor | None
    pairs: Tensor
    carried: Tensor | None
    left: Tensor | None

    @staticmethod
    def of(steps: Steps, runs: Tensor | None, size: int) -> _Cut:
        more = -steps.k.shape[2] % size
        q, k, v = (_cut(t, size, more) for t in (steps.q, steps.k, steps.v))
        decay, beta = steps.decay, steps.beta
        if decay is not None:
            decay = decay[..., None] if decay.dim() == 3 else decay
            decay = _cut(decay, size, more)
        if beta is not None:
            beta = _cut(beta[..., None], size, more)
        pairs = torch.ones(size, size, dtype=torch.bool, device=k.device).tril()
        if runs is None:
            return _Cut(q, k, v, None if decay is None else decay.cumsum(-2), beta, pairs, None, None)
        texts = torch.cat([runs, runs[:, -1:].expand(-1, more)], 1)
        before = F.pad(texts[:, :-1], (1, 0)).unflatten(1, (-1, size))[:, :, :1]
        texts = texts.unflatten(1, (-1, size))  # [B, N, C]
        pairs = pairs & (texts[..., None] == texts[..., None, :])[:, None]
        if decay is not None:  # a sum that begins anew with each text, so that no rounding joins them
            decay = pairs.to(decay.dtype) @ decay
        return _Cut(q, k, v, decay, beta, pairs, (texts == before)[:, None, ..., None],
                    (texts == texts[..., -1:])[:, None, ..., None])  # fmt: skip


def _cut(t: Tensor, size: int, more: int) -> Tensor:
    """[.., T, X] -> [.., N, size, X], zeros in the last chunk."""
    return (F.pad(t, (0, 0, 0, more)) if more else t).unflatten(-2, (-1, size))  # type: ignore[no-any-return]


def _chunks(cut: _Cut, state: Tensor) -> tuple[Tensor, Tensor]:
    """y [B, G, R, N, C, E] and the state after."""
    arriving, leaving, whole = _factors(cut)
    weights = _weights(cut, cut.q, cut.pairs)  # [B, G, R, N, C, C]
    reading = cut.q if arriving is None else cut.q * arriving[:, :, None]
    writing = (cut.k if leaving is None else cut.k * leaving).transpose(-1, -2)  # [B, G, N, D, C]
    if cut.beta is None:
        states, state = _pass(state, whole, writing @ cut.v, None)
        return weights @ cut.v[:, :, None] + reading @ states[:, :, None], state
    key = cut.k if arriving is None else cut.k * arriving
    system = cut.beta * _weights(cut, cut.k[:, :, None], cut.pairs.tril(-1))[:, :, 0]
    solved = torch.linalg.solve_triangular(system, cut.beta * torch.cat([cut.v, key], -1), upper=False, unitriangular=True)
    u, w = solved.split([cut.v.shape[-1], key.shape[-1]], -1)
    states, state = _pass(state, whole, writing @ u, writing @ w)
    u = u - w @ states
    return weights @ u[:, :, None] + reading @ states[:, :, None], state


def _factors(cut: _Cut) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """How much of the state arrives at each token, of each token leaves the chunk, and of the state passes through."""
    total, carried, left = cut.total, cut.carried, cut.left
    if total is None:
        if carried is None or left is None:
            return None, None, None
        kinds = cut.k.dtype
        return carried.to(kinds), left.to(kinds), carried[..., -1:, :].to(kinds)
    arriving, leaving = total.exp(), (total[..., -1:, :] - total).exp()
    if carried is not None and left is not None:
        arriving, leaving = arriving * carried, leaving.masked_fill(~left, 0.0)
    return arriving, leaving, arriving[..., -1:, :]


def _pass(state: Tensor, whole: Tensor | None, more: Tensor, less: Tensor | None) -> tuple[Tensor, Tensor]:
    """The state before each chunk, [B, G, N, D, E], and after the last: S' = whole S + more - less S."""
    if whole is None and less is None:
        sums = torch.cat([state[:, :, None], more], 2).cumsum(2)
        return sums[:, :, :-1], sums[:, :, -1]
    states = []
    factors = None if whole is None else whole.transpose(-1, -2).unbind(2)  # [B, G, 1 or D, 1] each
    taken = None if less is None else less.unbind(2)
    for n, new in enumerate(more.unbind(2)):
        states.append(state)
        kept = state if factors is None else state * factors[n]
        state = kept + new if taken is None else kept + new - taken[n] @ state
    return torch.stack(states, 2), state


def _weights(cut: _Cut, q: Tensor, pairs: Tensor) -> Tensor:
    """q_i k_j exp(b_i - b_j) of the pairs that see each other, else 0: [B, G, R, N, C, C]."""
    k, total = cut.k[:, :, None], cut.total
    pairs = pairs if pairs.dim() == 2 else pairs[:, :, None]
    if total is None:
        return (q @ k.transpose(-1, -2)).masked_fill(~pairs, 0.0)
    total = total[:, :, None]
    if total.shape[-1] > 1:
        return _graded(q, k, total).masked_fill(~pairs, 0.0)
    ratio = (total - total.transpose(-1, -2)).masked_fill(~pairs, float("-inf")).exp()
    return q @ k.transpose(-1, -2) * ratio


def _graded(q: Tensor, k: Tensor, total: Tensor) -> Tensor:
    """sum over d of q_id k_jd exp(b_id - b_jd) for i >= j, [.., C, C]; what stands above the diagonal means nothing.

    No factor is above 1: pairs across the middle of a block are weighed by way of the middle, and halves alike, down to
    blocks of BASE tokens, whose pairs are weighed one by one.
    """
    size = min(BASE, q.shape[-2])
    a, c, b = (t.unflatten(-2, (-1, size)) for t in (q, k, total))
    ratio = (b[..., :, None, :] - b[..., None, :, :]).clamp(max=0.0).exp()
    found = (a[..., :, None, :] * c[..., None, :, :] * ratio).sum(-1)  # [.., C / size, size, size]
    while size < q.shape[-2]:
        a, c, b = (t.unflatten(-2, (-1, 2, size)) for t in (q, k, total))
        middle = b[..., 0, -1:, :]
        late = a[..., 1, :, :] * (b[..., 1, :, :] - middle).exp()
        early = c[..., 0, :, :] * (middle - b[..., 0, :, :]).exp()
        across = late @ early.transpose(-1, -2)
        halves = found.unflatten(-3, (-1, 2))
        first, second = halves[..., 0, :, :], halves[..., 1, :, :]
        above = torch.zeros_like(across)
        found = torch.cat([torch.cat([first, above], -1), torch.cat([across, second], -1)], -2)
        size *= 2
    return found.squeeze(-3)  # type: ignore[no-any-return]
