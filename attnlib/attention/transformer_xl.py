"""Transformer-XL's relative scores: contents meet sinusoids of distances, each with a learned bias for the query."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from attnlib.attention.biases import Host, Rule, ScoreTerm, TermSpec, cut, picked
from attnlib.layout import Coordinates
from attnlib.nn.embeddings import sinusoids
from attnlib.nn.linear import Linear


class TransformerXL(ScoreTerm):
    """scale * (u . k_j + (q_i + v) . W R[i - j]), u and v [H, D], R [M] the sinusoids of a distance (Dai et al. 2019).

    arXiv:1901.02860; with q . k these are the paper's four parts. Distances beyond `max_distance` count as that (its
    clamp_len); unless `both`, so do keys after the query as distance 0.
    """

    bounded = True
    static = False
    relative = False  # content: it reads queries and keys

    def __init__(self, *, num_heads: int, d_head: int, width: int, max_distance: int, both: bool) -> None:
        super().__init__()
        self.max_distance, self.both, self.num_heads = max_distance, both, num_heads
        self.u, self.v = (nn.Parameter(torch.empty(num_heads, d_head)) for _ in range(2))
        for bias in (self.u, self.v):
            nn.init.normal_(bias, std=0.02)
        self.r = Linear(width, num_heads * d_head, bias=False)
        self.rule: tuple[Rule, ...] = ()  # a tuple: saved where it stands

    def tensors(self, q: Tensor, k: Tensor) -> tuple[Tensor, ...]:
        """(q + v) . W R [B, H, Q, distances] and u . k [B, H, K, 1], scaled."""
        least = -self.max_distance if self.both else 0
        distance = torch.arange(least, self.max_distance + 1, device=q.device)
        weight: Tensor = self.r.weight
        digits = torch.promote_types(weight.dtype, torch.float32)
        table = sinusoids(distance, weight.shape[1], order="half_split", dtype=digits).to(weight.dtype)
        met = self.r(table).to(q.dtype).unflatten(1, (self.num_heads, -1)).permute(1, 2, 0)  # [H, D, R]
        u, v = (bias.to(q.dtype) for bias in (self.u, self.v))
        keys = k @ u.unflatten(0, (k.shape[1], -1)).transpose(-1, -2)  # [B, G, K, H/G]
        scale = self.rule[0].scale if self.rule else q.shape[3] ** -0.5
        return ((q + v[:, None]) @ met) * scale, keys.transpose(-1, -2).flatten(1, 2)[..., None] * scale

    def score(self, tensors: tuple[Tensor, ...], q: Coordinates, k: Coordinates) -> Tensor:
        least = -self.max_distance if self.both else 0
        at = (q.position - k.position).clamp(least, self.max_distance) - least
        theirs = k._replace(row=q.row, head=q.head)
        if q.head.dim() == 0:  # in a compiled kernel
            return picked(tensors[0], q, at) + tensors[1][theirs.row, theirs.head, theirs.column, 0]
        return picked(tensors[0], q, at) + cut(tensors[1], theirs).transpose(-1, -2)


class TransformerXLSpec(TermSpec, kind="transformer_xl"):
    """Relative scores of Transformer-XL: sinusoids of the distance, projected, met by the query.

    max_distance: farther ones count as this. both: false for causal attention, where no key comes after the query.
    """

    max_distance: int = Field(default=512, ge=1)
    both: bool = True

    def build(self, *, num_heads: int, d_head: int) -> ScoreTerm:
        """The term alone: sinusoids as wide as all heads."""
        return self._term(num_heads, d_head, num_heads * d_head)

    def of(self, attention: Host) -> ScoreTerm:
        term = self._term(attention.num_heads, attention.d_head, attention.q.in_features)
        term.rule = (attention.rule,)
        return term

    def _term(self, heads: int, d_head: int, width: int) -> TransformerXL:
        return TransformerXL(num_heads=heads, d_head=d_head, width=width, max_distance=self.max_distance, both=self.both)
