"""Kernel attention: softmax's exp(q k) replaced by phi(q) phi(k), so that sums over keys are made once for all queries."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from attnlib.attention.caches import Memory
from attnlib.attention.exact import exact, unmixed
from attnlib.attention.linear.mixer import LinearMixer
from attnlib.attention.linear.steps import Steps
from attnlib.attention.linear.texts import Texts
from attnlib.attention.scope import Scope
from attnlib.attention.state_cache import StateCache
from attnlib.layout import Layout


class KernelAttention(LinearMixer):
    """sum over j of phi(q_i) phi(k_j) v_j / sum over j of phi(q_i) phi(k_j), self or cross, phi >= 0.

    Rotary turns the features above the line alone, so that the sum below stays positive (Su et al. 2021, arXiv:2104.09864).
    """

    normed: ClassVar[bool] = False
    activation: ClassVar[bool] = False

    def features(self, x: Tensor, *, query: bool) -> Tensor:
        """phi(x), [.., D] -> [.., F]; nothing in it is learned, and long texts find it again in the backward."""
        raise NotImplementedError

    def made(self, steps: Steps) -> Steps:
        """Features in place of q and k. Keys of zeros have some too, which meet values of zeros."""
        return steps._replace(q=self.features(steps.q, query=True), k=self.features(steps.k, query=False))

    def forward(self, x: Tensor, layout: Layout | None = None, scope: Scope | None = None, *,
                memory: Memory | None = None, cache: object = None) -> Tensor:  # fmt: skip
        if memory is None:
            return super().forward(x, layout, scope, cache=cache)  # type: ignore[arg-type]
        layout = layout or Layout.dense(x.shape[0], x.shape[1], device=x.device)
        with unmixed(x):
            flat = self.q(x)
            q = self.features(exact(self._split(flat, self.heads.d_key)), query=True)
            y = _met(self.grouped(q), memory, layout).flatten(1, 2)
        return self.finish(x, Texts.of(layout).keep(y.to(flat.dtype), 2))

    def mix(
        self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, layout: Layout, scope: Scope, held: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        ones = v.new_ones(*v.shape[:3], 1)
        if self.rotary is None and self.causal:
            steps = Steps(self.grouped(q), k, torch.cat([v, ones], -1))
            y, state = self.run(steps, layout, held.get("state"), self.made)
            return ratio(y), {"state": state}
        q, k = self.features(q, query=True), self.features(k, query=False)
        if self.rotary is None:
            y, state = self.sums(q, k, torch.cat([v, ones], -1), layout, held.get("state"))
            return ratio(y), {"state": state}
        below, counts = self.sums(q, k, ones, layout, held.get("counts"))
        above, state = self.sums(*self.turned(q, k, layout, scope), v, layout, held.get("state"))
        return ratio(torch.cat([above, below], -1)), {"state": state, "counts": counts}

    def sums(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """phi(q_i) . sum over the j that i sees of phi(k_j) v_j, and the state."""
        steps = Steps(self.grouped(q), k, v)
        if self.causal:
            return self.run(steps, layout, state)
        texts = Texts.of(layout)
        if texts.runs is None:  # one text a row: one sum for all its queries
            found = texts.keep(k, 2).transpose(-1, -2) @ v
            return (steps.q @ found[:, :, None]).flatten(1, 2), found
        y, state = self.run(steps, layout, state)
        own = (steps.q * k[:, :, None]).sum(-1, keepdim=True) * v[:, :, None]  # both scans saw the token itself
        return y - own.flatten(1, 2), state

    def remember(self, x: Tensor, layout: Layout) -> Memory:
        """One sum a row; where several texts share a row, their keys and values."""
        with unmixed(x):
            k = exact(self._split(self.k(x), self.heads.d_key))
            v = exact(self._split(self.v(x), self.heads.d_value))
            k = Texts.of(layout).keep(self.features(k, query=False), 2)
            v = torch.cat([v, v.new_ones(*v.shape[:3], 1)], -1)
            if Texts.of(layout).runs is None:
                return Memory({"k": k, "state": k.transpose(-1, -2) @ v}, layout)
        return Memory({"k": k, "v": v}, layout)

    def how(self, layout: Layout, memory: Memory | None, cache: StateCache | None) -> str:
        if memory is not None:
            return "the source's sum, met by each query" if "state" in memory.entry else "products with the source's keys"
        if not self.causal and Texts.of(layout).runs is None:
            return "one sum over the text, met by each query"
        return super().how(layout, memory, cache)

    def implied_weights(
        self, x: Tensor, layout: Layout, scope: Scope, *, rows: slice = slice(None), memory: Memory | None = None
    ) -> Tensor:
        """[B, H, R, K]: phi(q_i) phi(k_j) of what is seen, each row over its sum."""
        if memory is None:
            flat, _ = self._flat(x, layout, {})
            keys = layout
            k = self.features(exact(self._split(flat[1], self.heads.d_key)), query=False)
        else:
            flat, keys, k = [self.q(x)], memory.layout, memory.entry["k"]
        q = self.grouped(self.features(exact(self._split(flat[0], self.heads.d_key)), query=True))
        seen = same_text(layout, keys)[:, rows]
        if self.causal and memory is None:
            seen = seen & torch.ones(x.shape[1], keys.tokens, dtype=torch.bool, device=x.device).tril()[rows]
        below = _pairs(q[..., rows, :], k, seen)
        above = below
        if self.rotary is not None:
            turned = self.turned(q.flatten(1, 2), k, layout, scope)
            above = _pairs(self.grouped(turned[0])[..., rows, :], turned[1], seen)
        total = below.sum(-1, keepdim=True)
        return above / total.masked_fill(total == 0, 1.0)


def _met(q: Tensor, memory: Memory, layout: Layout) -> Tensor:
    """q [B, G, R, T, F] over what a source left: [B, G, R, T, E]."""
    if "state" in memory.entry:
        return ratio(q @ memory.entry["state"][:, :, None])
    k, v = memory.entry["k"], memory.entry["v"]
    return ratio((q @ k[:, :, None].transpose(-1, -2) * same_text(layout, memory.layout)[:, None, None]) @ v[:, :, None])


def _pairs(q: Tensor, k: Tensor, seen: Tensor) -> Tensor:
    """[B, H, Q, K] products of the pairs that see each other."""
    return (q @ k[:, :, None].transpose(-1, -2)).flatten(1, 2) * seen[:, None]


def same_text(q: Layout, k: Layout) -> Tensor:
    """[B, Q, K] which keys are of the query's text."""
    ours, theirs = (torch.zeros_like(t.positions) if t.segments is None else t.segments for t in (q, k))
    return (ours[:, :, None] == theirs[:, None]) & (theirs[:, None] >= 0)


def ratio(y: Tensor) -> Tensor:
    """[.., E + 1] -> [.., E]: the first E over the last; where that is 0 nothing was seen, and zeros come."""
    below = y[..., -1:]
    return y[..., :-1] / below.masked_fill(below == 0, 1.0)
