"""The gradients of a scan of a few chunks, written out: what autograd would keep of it is many times the text.

The decay's needs no sum over pairs: whatever weighs by exp(b_i - b_j) gives its reader's q dq to b_i and takes its key's
k dk from b_j (Yang et al. 2023, arXiv:2312.06635).
"""

from __future__ import annotations

import torch
from torch import Tensor

from attnlib.attention.linear.chunks import Cut, Found
from attnlib.attention.linear.graded import graded_backward
from attnlib.attention.linear.steps import Steps


def gradients(cut: Cut, found: Found, dy: Tensor, after: Tensor, steps: Steps) -> tuple[Steps, Tensor]:
    """Of the steps that were cut and of the state before, from those of y [B, G, R, T, E] and of the state after."""
    size, tokens, queries = cut.k.shape[3], steps.k.shape[2], steps.q.shape[2]
    dy = torch.nn.functional.pad(dy, (0, 0, 0, -tokens % size)).unflatten(3, (-1, size)).transpose(2, 3)
    rows = dy.flatten(3, 4)  # [B, G, N, R C, E]
    reading = found.reading[:, :, :, :queries].flatten(3, 4)
    du = found.weights[:, :, :, :queries].flatten(3, 4).transpose(-1, -2) @ rows
    before = reading.transpose(-1, -2) @ rows  # [B, G, N, D, E]
    if found.recalling is not None:
        before = before - found.recalling.transpose(-1, -2) @ du
    afters, before = _back(before, after, found)
    du = du + found.writing @ afters
    weights = (rows @ found.u.transpose(-1, -2)).unflatten(3, (queries, size))
    arrived = (rows @ found.states.transpose(-1, -2)).unflatten(3, (queries, size))
    dbeta = None
    if cut.beta is not None and found.inverse is not None:
        right = found.inverse.transpose(-1, -2) @ du  # of beta (v - key S)
        missed = cut.v - found.reading[:, :, :, -1] @ found.states
        system = (right @ found.u.transpose(-1, -2)).neg_().tril_(-1)
        dbeta = (right * missed).sum(-1, keepdim=True) + (system * found.weights[:, :, :, -1]).sum(-1, keepdim=True)
        du = cut.beta * right
        weights = torch.cat([weights, (cut.beta * system)[:, :, :, None]], 3)
        arrived = torch.cat([arrived, -(du @ found.states.transpose(-1, -2))[:, :, :, None]], 3)
    readers, dk = _pairs(cut, found, weights)
    readers = readers + (arrived if found.arriving is None else arrived * found.arriving[:, :, :, None])
    left = found.u @ afters.transpose(-1, -2)
    left = left if found.leaving is None else left * found.leaving
    dk = dk + left
    decay = None if cut.total is None else _decay(cut, found, readers, dk, left, afters)
    if cut.beta is not None:
        dk = dk + readers[:, :, :, -1]
    dq = readers[:, :, :, :queries].transpose(2, 3).flatten(3, 4)[:, :, :, :tokens]
    dk, dv = (t.flatten(2, 3)[:, :, :tokens] for t in (dk, du))
    if decay is not None:
        decay = decay.flatten(2, 3)[:, :, :tokens]
        decay = decay[..., 0] if steps.decay is not None and steps.decay.dim() == 3 else decay
    if dbeta is not None:
        dbeta = dbeta.flatten(2, 4)[:, :, :tokens]
    return Steps(dq, dk, dv, decay, dbeta), before


def _back(reads: Tensor, after: Tensor, found: Found) -> tuple[Tensor, Tensor]:
    """The gradient of the state after each chunk, and of the one before the first; `reads`: what a chunk's reading adds."""
    afters = []
    whole = None if found.whole is None else found.whole.transpose(-1, -2).unbind(2)
    turned = None if found.turned is None else found.turned.transpose(-1, -2).unbind(2)
    for n, more in reversed(list(enumerate(reads.unbind(2)))):
        afters.append(after)
        if turned is not None:
            after = turned[n] @ after + more
        else:
            after = after + more if whole is None else torch.addcmul(more, after, whole[n])
    return torch.stack(afters[::-1], 2), after


def _pairs(cut: Cut, found: Found, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of readers and keys from that of the weights of the pairs [B, G, N, R, C, C]."""
    if found.ratio is not None:
        weights = weights * found.ratio[:, :, :, None]
    elif not found.levels or cut.pairs.dim() > 2:
        weights = weights.masked_fill(~(cut.pairs if cut.pairs.dim() == 2 else cut.pairs[:, :, :, None]), 0.0)
    if found.levels:
        readers, dk = graded_backward(weights, cut.readers, cut.k[:, :, :, None], found.levels)
        return readers, dk.sum(3)
    flat = weights.flatten(3, 4)
    return (flat @ cut.k).unflatten(3, weights.shape[3:5]), flat.transpose(-1, -2) @ cut.readers.flatten(3, 4)


def _decay(cut: Cut, found: Found, readers: Tensor, dk: Tensor, left: Tensor, afters: Tensor) -> Tensor:
    """Of the decay [B, G, N, C, 1 or D], from the gradients of readers and keys; `left`: the part that leaves the chunk."""
    assert cut.total is not None and found.whole is not None
    total = (cut.readers * readers).sum(3) - cut.k * dk
    last = (cut.k * left).sum(-2) + (found.states * afters).sum(-1) * found.whole[..., 0, :]
    if cut.total.shape[-1] == 1:
        total, last = total.sum(-1, keepdim=True), last.sum(-1, keepdim=True)
    total[..., -1, :] += last
    if cut.summed is not None:
        return cut.summed.transpose(-1, -2) @ total
    return total.flip(-2).cumsum(-2).flip(-2)
