"""Disentangled attention: contents meet distances, both ways, over a table that a whole stack may share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from attnlib.attention.biases import Host, ScoreTerm, TermSpec, picked
from attnlib.layout import Coordinates
from attnlib.nn.linear import Linear
from attnlib.nn.norms import Norm
from attnlib.spec import FieldError

Part = Literal["c2p", "p2c"]


def log_bucket(distance: Tensor, *, buckets: int, max_distance: int) -> Tensor:
    """Bucket of `distance`, with its sign: itself up to buckets / 2, then logarithmic, buckets - 1 at max_distance - 1."""
    exact = buckets // 2
    # the same operations in the same order as the published model: rounding decides buckets at the borders
    far = distance.abs().clamp(min=exact)
    ratio = torch.log(far / exact) / torch.log(torch.tensor((max_distance - 1) / exact, device="cpu"))
    bucket = (torch.ceil(ratio * (exact - 1)) + exact).long()
    return torch.where(distance.abs() <= exact, distance, bucket * distance.sign())


class RelativeTable(nn.Module):
    """dropout(norm(table)): [R, M], a vector for each of the R buckets of distance from -R/2 to R/2 - 1."""

    def __init__(self, *, rows: int, width: int, norm: nn.Module | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(rows, width))
        nn.init.normal_(self.table, std=0.02)
        self.norm, self.dropout = norm, dropout

    def forward(self) -> Tensor:
        table = self.table if self.norm is None else self.norm(self.table)
        return F.dropout(table, self.dropout) if self.dropout and self.training else table


class Disentangled(ScoreTerm):
    """scale * (q_i . K[d] + k_j . Q[d]), d the bucket of i - j (He et al. 2021, arXiv:2006.03654, 2111.09543).

    K and Q are projections of one table of relative positions: by the attention's own q and k, or by a pair for positions.
    Both parts read the bucket of i - j, as the published models do; the paper writes that of j - i in the second.
    """

    bounded = True
    static = False
    relative = False  # content: it reads queries and keys, not distances alone

    def __init__(
        self,
        table: RelativeTable,
        *,
        num_heads: int,
        d_head: int,
        reach: int,
        buckets: int | None,
        parts: Sequence[Part],
        attention: Host | None = None,
        share: bool = False,
        owner: bool = True,
    ) -> None:
        super().__init__()
        width = table.table.shape[1]
        self.num_heads, self.d_head, self.reach, self.buckets, self.parts = num_heads, d_head, reach, buckets, tuple(parts)
        self.table = table if owner else None
        self.k, self.q = (
            None if share or part not in parts else Linear(width, num_heads * d_head) for part in ("c2p", "p2c")
        )
        self._met = (table, attention if share else None)  # a tuple: they are saved where they stand
        self._rule = None if attention is None else (attention.rule,)

    @property
    def scale(self) -> float:
        """That of the whole sum, content included; alone (3 d)^-1/2 with both parts."""
        return ((1 + len(self.parts)) * self.d_head) ** -0.5 if self._rule is None else self._rule[0].scale

    def positions(self) -> tuple[Tensor | None, Tensor | None]:
        """Keys [H or G, R, D] and queries [H, R, D] of the table's rows; None where a part is not asked for."""
        table, attention = self._met
        x = table()
        if attention is not None:
            q, k = attention.at_rest(x)
            return k if "c2p" in self.parts else None, q if "p2c" in self.parts else None
        return self._heads(self.k, x), self._heads(self.q, x)

    def _heads(self, project: Linear | None, x: Tensor) -> Tensor | None:
        return None if project is None else project(x).unflatten(1, (self.num_heads, -1)).transpose(0, 1)

    def tensors(self, q: Tensor, k: Tensor) -> tuple[Tensor, ...]:
        """c2p [B, H, Q, R], p2c [B, H, K, R] where asked for, and the row of the table for each distance up to `reach`."""
        keys, queries = self.positions()
        found = []
        if keys is not None:
            found.append(_grouped(q, keys.to(q.dtype).transpose(-1, -2)) * self.scale)
        if queries is not None:
            grouped = queries.to(k.dtype).unflatten(0, (k.shape[1], -1)).flatten(1, 2)
            met = k @ grouped.transpose(-1, -2)  # [B, G, K, H/G * R]
            found.append(met.unflatten(3, (-1, queries.shape[1])).transpose(2, 3).flatten(1, 2) * self.scale)
        distance = torch.arange(-self.reach, self.reach + 1, device=q.device)
        bucket = distance
        if self.buckets is not None:
            bucket = log_bucket(distance, buckets=self.buckets, max_distance=self.reach)
        half = self.buckets or self.reach
        return (*found, (bucket + half).clamp(0, 2 * half - 1))

    def score(self, tensors: tuple[Tensor, ...], q: Coordinates, k: Coordinates) -> Tensor:
        at = tensors[-1][(q.position - k.position).clamp(-self.reach, self.reach) + self.reach]
        given = dict(zip((part for part in ("c2p", "p2c") if part in self.parts), tensors))
        total: Tensor | None = picked(given["c2p"], q, at) if "c2p" in given else None
        if "p2c" in given:
            turned = picked(given["p2c"], k._replace(row=q.row, head=q.head), at, keys=True)
            total = turned if total is None else total + turned
        return cast(Tensor, total)


def _grouped(q: Tensor, keys: Tensor) -> Tensor:
    """q [B, H, Q, D] by keys [G, D, R], G dividing H -> [B, H, Q, R]."""
    groups = keys.shape[0]
    met: Tensor = q.unflatten(1, (groups, -1)) @ keys[:, None]
    return met.flatten(1, 2)


class DisentangledSpec(TermSpec, kind="disentangled"):
    """Content meets distance and distance content (DeBERTa), over one table of vectors by distance.

    Under a stack's `bias` the table is one for all layers. parts: c2p (content to position), p2c. buckets: a side, exact up
    to half of them, then logarithmic up to max_distance; null = a vector for each distance. share: positions go through the
    layer's own q and k (v3), else through a pair for positions. norm and dropout: of the table. The sum is scaled as
    `scores.scale` says: by (3 d)^-1/2 in the paper.
    """

    by_head = False  # what a stack shares is the table; each layer projects it by itself

    buckets: int | None = Field(default=256, ge=2)
    max_distance: int = Field(default=512, ge=1)
    parts: tuple[Part, ...] = Field(default=("c2p", "p2c"), min_length=1)
    share: bool = True
    norm: Norm | None = None
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _reaches(self) -> Self:
        if len(set(self.parts)) < len(self.parts):
            raise FieldError("parts", "names one twice", "wish c2p, p2c or both")
        if self.buckets is not None and self.max_distance - 1 <= self.buckets // 2:
            least = self.buckets // 2 + 1
            raise FieldError("max_distance", str(self.max_distance), f"must be above {least}, beyond the exact buckets")
        return self

    def build(self, *, num_heads: int, d_head: int) -> ScoreTerm:
        """The term alone, without an attention to share: over vectors as wide as all heads, by projections of its own."""
        return self._term(self._table(num_heads * d_head), num_heads=num_heads, d_head=d_head)

    def of(self, attention: Host) -> ScoreTerm:
        return self._of(attention, self._table(attention.q.in_features), owner=True)

    def shared(self, attentions: Sequence[Host]) -> nn.Module:
        table = self._table(attentions[0].q.in_features)
        for attention in attentions:
            attention.rule.add(self._of(attention, table, owner=False))
        return table

    def _table(self, width: int) -> RelativeTable:
        norm = None if self.norm is None else self.norm.build(width)
        return RelativeTable(rows=2 * (self.buckets or self.max_distance), width=width, norm=norm, dropout=self.dropout)

    def _of(self, attention: Host, table: RelativeTable, *, owner: bool) -> Disentangled:
        heads, width = attention.num_heads, attention.d_head
        return self._term(table, num_heads=heads, d_head=width, attention=attention, share=self.share, owner=owner)

    def _term(self, table: RelativeTable, **more: object) -> Disentangled:
        return Disentangled(table, reach=self.max_distance, buckets=self.buckets, parts=self.parts, **more)  # type: ignore[arg-type]
