"""Locality-sensitive hashing: a query sees the keys that fall into one bucket with it."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from attnlib.attention.biases import Host, ScoreTerm, TermSpec, cut
from attnlib.attention.exact import exact
from attnlib.layout import Coordinates


class HashBuckets(ScoreTerm):
    """0 for keys in the query's bucket in any round, -inf for others (Reformer, Kitaev et al. 2020, arXiv:2001.04451).

    A round draws directions r once, kept with the weights; the bucket of a vector x is argmax of [x r, -x r] (Andoni et al.
    2015), so that vectors of a small angle share it. A bucket is its token's own: no cache and no neighbour changes it. With
    `own` a query always sees the key at its place. The choice has no gradient. Reformer also ties keys to queries, and cuts
    buckets that are long; here a bucket has all its keys.
    """

    static = False
    relative = False
    directions: Tensor  # [R, D, N/2]

    def __init__(self, *, d_head: int, buckets: int, rounds: int, seed: int = 0, own: bool = True) -> None:
        super().__init__()
        self.buckets, self.rounds, self.seed, self.own = buckets, rounds, seed, own
        self.register_buffer("directions", _drawn(rounds, d_head, buckets // 2, seed))

    def tensors(self, q: Tensor, k: Tensor) -> tuple[Tensor, ...]:
        """[B, H, Q, R] and [B, H, K, R] buckets of each round."""
        return self._bucket(q), self._bucket(k).repeat_interleave(q.shape[1] // k.shape[1], 1)

    def _bucket(self, x: Tensor) -> Tensor:
        x = exact(x.detach())
        met = x[:, :, :, None, None] @ self.directions.to(x.dtype)  # [B, H, T, R, 1, N/2]
        return torch.cat([met, -met], -1).squeeze(-2).argmax(-1)

    def score(self, tensors: tuple[Tensor, ...], q: Coordinates, k: Coordinates) -> Tensor:
        same = (q.position == k.position) & self.own
        for number in range(self.rounds):
            same = same | (_of(tensors[0], q, number) == _of(tensors[1], k, number, keys=True))
        return torch.where(same, 0.0, -torch.inf)

    def extra_repr(self) -> str:
        return f"buckets={self.buckets}, rounds={self.rounds}, own={self.own}"


def _of(buckets: Tensor, place: Coordinates, number: int, *, keys: bool = False) -> Tensor:
    """[B, H, Q, 1] of queries, [B, H, 1, K] of keys, in one round."""
    if place.column.dim() == 0:  # in a compiled kernel
        return buckets[place.row, place.head, place.column, number]
    found = cut(buckets, place)[..., number, None]
    return found.transpose(-1, -2) if keys else found


def _drawn(rounds: int, width: int, count: int, seed: int) -> Tensor:
    """[R, D, count] normal directions; nothing is drawn where there is no memory to draw into."""
    if torch.get_default_device().type == "meta":
        return torch.empty(rounds, width, count)
    made = torch.Generator("cpu").manual_seed(seed)
    drawn = torch.randn(rounds, width, count, generator=made, dtype=torch.float64, device="cpu")
    return drawn.to(torch.get_default_device(), torch.get_default_dtype())


class HashBucketsSpec(TermSpec, kind="lsh"):
    """Each query sees the keys that fall into a bucket with it in any round of hashing (Reformer).

    buckets: of a round, a multiple of 2; rounds: more of them find more of the near keys; seed: of the draw.
    """

    approximates = True
    buckets: int = Field(default=16, ge=2, multiple_of=2)
    rounds: int = Field(default=2, ge=1)
    seed: int = Field(default=0, ge=0)

    def build(self, *, num_heads: int, d_head: int) -> ScoreTerm:
        return HashBuckets(d_head=d_head, buckets=self.buckets, rounds=self.rounds, seed=self.seed)

    def of(self, attention: Host) -> ScoreTerm:
        return HashBuckets(d_head=attention.d_head, buckets=self.buckets, rounds=self.rounds, seed=self.seed,
                           own=not attention.crosses)  # fmt: skip
