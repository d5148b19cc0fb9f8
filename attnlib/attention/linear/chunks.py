"""The scan of a few chunks of C tokens: all pairs of a chunk at once, and the state from chunk to chunk.

Within a chunk pairs of tokens are weighed by exp(b_i - b_j), b the running sum of the decay, which is at most 1; from chunk
to chunk only the state passes (Sun et al. 2023, arXiv:2307.08621; Yang et al. 2023, arXiv:2312.06635). The delta rule is
solved within a chunk by one triangular system, the WY form of a product of Householder-like factors (Yang et al. 2024,
arXiv:2406.06484): its keys read the state as queries do, as one reader more.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from attnlib.attention.linear.decayed import decayed
from attnlib.attention.linear.graded import Level, graded
from attnlib.attention.linear.steps import Steps


class Cut(NamedTuple):
    """Steps in N chunks of C: readers [B, G, N, R, C, D], the queries and under the delta rule the keys; k [B, G, N, C, D],
    v [B, G, N, C, E], beta [B, G, N, C, 1].

    total: running sum b of the decay, [B, G, N, C, 1 or D]. pairs: which earlier token of its chunk a token sees,
    [C, C] or [B, 1, N, C, C]; carried [B, 1, N, C, 1]: which tokens see the state before the chunk; left: which ones
    the state after it keeps.
    """

    readers: Tensor
    k: Tensor
    v: Tensor
    total: Tensor | None
    beta: Tensor | None
    pairs: Tensor
    carried: Tensor | None
    left: Tensor | None

    @staticmethod
    def of(steps: Steps, runs: Tensor | None, size: int) -> Cut:
        more = -steps.k.shape[2] % size
        q, k, v = (_cut(t, size, more) for t in (steps.q, steps.k, steps.v))
        readers = q.transpose(2, 3)
        decay, beta = steps.decay, steps.beta
        if decay is not None:
            decay = _cut(decay[..., None] if decay.dim() == 3 else decay, size, more)
        if beta is not None:
            beta = _cut(beta[..., None], size, more)
            readers = torch.cat([readers, k[:, :, :, None]], 3)
        pairs = torch.ones(size, size, dtype=torch.bool, device=k.device).tril()
        if runs is None:
            return Cut(readers, k, v, None if decay is None else decay.cumsum(-2), beta, pairs, None, None)
        texts = torch.cat([runs, runs[:, -1:].expand(-1, more)], 1)
        before = F.pad(texts[:, :-1], (1, 0)).unflatten(1, (-1, size))[:, :, :1]
        texts = texts.unflatten(1, (-1, size))  # [B, N, C]
        pairs = pairs & (texts[..., None] == texts[..., None, :])[:, None]
        if decay is not None:  # a sum that begins anew with each text, so that no rounding joins them
            decay = pairs.to(decay.dtype) @ decay
        return Cut(readers, k, v, decay, beta, pairs, (texts == before)[:, None, ..., None],
                   (texts == texts[..., -1:])[:, None, ..., None])  # fmt: skip

    @property
    def summed(self) -> Tensor | None:
        """The factor by which `pairs` sums a decay where rows hold several texts."""
        return None if self.carried is None or self.total is None else self.pairs.to(self.total.dtype)


class Found(NamedTuple):
    """What a scan of a few chunks finds on its way.

    arriving [.., C, 1 or D] of the state before the chunk reaches a token; leaving of a token reaches the state after;
    whole [.., 1, 1 or D] of the state passes. ratio: exp(b_i - b_j) of pairs, levels: the same of a decay a channel.
    weights [B, G, N, R, C, C] of the readers over the keys, which read the state with `reading` [B, G, N, R, C, D] and
    write to it with `writing` [B, G, N, C, D]. states [B, G, N, D, E] before each chunk. u: what is written.
    inverse [.., C, C] of the delta rule's system; turned [.., D, D]: what the rule makes of a state.
    """

    arriving: Tensor | None
    leaving: Tensor | None
    whole: Tensor | None
    ratio: Tensor | None
    levels: list[Level]
    weights: Tensor
    reading: Tensor
    writing: Tensor
    states: Tensor
    u: Tensor
    inverse: Tensor | None = None
    recalling: Tensor | None = None
    turned: Tensor | None = None


def _cut(t: Tensor, size: int, more: int) -> Tensor:
    """[.., T, X] -> [.., N, size, X], zeros in the last chunk; side by side, else each matrix product would copy it."""
    return (F.pad(t, (0, 0, 0, more)) if more else t.contiguous()).unflatten(-2, (-1, size))  # type: ignore[no-any-return]


def chunks(cut: Cut, state: Tensor) -> tuple[Found, Tensor]:
    """All but the outputs, and the state after."""
    arriving, leaving, whole = _factors(cut)
    weights, ratio, levels = _weights(cut)
    reading = cut.readers if arriving is None else cut.readers * arriving[:, :, :, None]
    writing = cut.k if leaving is None else cut.k * leaving
    back = writing.transpose(-1, -2)
    if cut.beta is None:
        states, state = _pass(state, whole, back @ cut.v)
        return Found(arriving, leaving, whole, ratio, levels, weights, reading, writing, states, cut.v), state
    system, key = cut.beta * weights[:, :, :, -1], reading[:, :, :, -1]
    one = torch.eye(system.shape[-1], dtype=system.dtype, device=system.device).expand_as(system)
    inverse = torch.linalg.solve_triangular(system, one, upper=False, unitriangular=True)
    if ratio is not None:  # chains of small weights go on below LEAST
        inverse = inverse.masked_fill(ratio == 0, 0.0)
    u, recalling = inverse @ (cut.beta * cut.v), inverse @ (cut.beta * key)
    turned = -(back @ recalling)
    turned.diagonal(dim1=-2, dim2=-1).add_(1.0 if whole is None else whole[..., 0, :])
    states, state = _turn(state, turned, back @ u)
    u = u - recalling @ states
    found = Found(arriving, leaving, whole, ratio, levels, weights, reading, writing, states, u, inverse, recalling, turned)
    return found, state


def outputs(cut: Cut, found: Found) -> Tensor:
    """y [B, G, R, T, E], what stands beyond the tokens included."""
    queries = cut.readers.shape[3] - (cut.beta is not None)
    weights, reading = found.weights[:, :, :, :queries], found.reading[:, :, :, :queries]
    y = weights.flatten(3, 4) @ found.u + reading.flatten(3, 4) @ found.states  # [B, G, N, R C, E]
    return y.unflatten(3, (queries, -1)).transpose(2, 3).flatten(3, 4)  # type: ignore[no-any-return]


def _factors(cut: Cut) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """How much of the state arrives at each token, of each token leaves the chunk, and of the state passes through."""
    total, carried, left = cut.total, cut.carried, cut.left
    if total is None:
        if carried is None or left is None:
            return None, None, None
        kinds = cut.k.dtype
        return carried.to(kinds), left.to(kinds), carried[..., -1:, :].to(kinds)
    arriving, leaving = decayed(total.clone()), decayed(total[..., -1:, :] - total)
    if carried is not None and left is not None:
        arriving, leaving = arriving * carried, leaving.masked_fill(~left, 0.0)
    return arriving, leaving, arriving[..., -1:, :]


def _weights(cut: Cut) -> tuple[Tensor, Tensor | None, list[Level]]:
    """q_i k_j exp(b_i - b_j) of the pairs that see each other, else 0: [B, G, N, R, C, C]."""
    k, total, pairs = cut.k[:, :, :, None], cut.total, cut.pairs
    many = pairs if pairs.dim() == 2 else pairs[:, :, :, None]
    if total is not None and total.shape[-1] > 1:
        weights, levels = graded(cut.readers, k, total[:, :, :, None])
        return weights if pairs.dim() == 2 else weights.masked_fill(~many, 0.0), None, levels
    products = (cut.readers.flatten(3, 4) @ cut.k.transpose(-1, -2)).unflatten(3, (-1, k.shape[-2]))
    if total is None:
        return products.masked_fill(~many, 0.0), None, []
    ratio = decayed((total - total.transpose(-1, -2)).masked_fill(~pairs, float("-inf")))
    return products * ratio[:, :, :, None], ratio, []


def _pass(state: Tensor, whole: Tensor | None, more: Tensor) -> tuple[Tensor, Tensor]:
    """The state before each chunk, [B, G, N, D, E], and after the last: S' = whole S + more."""
    states = []
    factors = None if whole is None else whole.transpose(-1, -2).unbind(2)  # [B, G, 1 or D, 1] each
    for n, new in enumerate(more.unbind(2)):
        states.append(state)
        state = state + new if factors is None else torch.addcmul(new, state, factors[n])
    return torch.stack(states, 2), state


def _turn(state: Tensor, turned: Tensor, more: Tensor) -> tuple[Tensor, Tensor]:
    """The same, S' = turned S + more."""
    states = []
    for matrix, new in zip(turned.unbind(2), more.unbind(2)):
        states.append(state)
        state = matrix @ state + new
    return torch.stack(states, 2), state
