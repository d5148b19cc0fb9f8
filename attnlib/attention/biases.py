"""Score terms: what is added to a score before the mask. Each is one elementwise function of coordinates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Protocol, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from attnlib.attention.masks import Mask
from attnlib.layout import Coordinates, Layout
from attnlib.spec import FieldError, Spec


class ScoreTerm(nn.Module):
    """Adds `score(...)` to q.k * scale.

    static:   depends on coordinates and parameters only, so it can be made once a forward and shared by layers.
    relative: of positions it reads only k.position - q.position, so a dense tile needs Q+K-1 values, not Q*K.
    bounded:  it never says -inf, which would mean not seeing.
    """

    static: ClassVar[bool] = True
    relative: ClassVar[bool] = True
    bounded: ClassVar[bool] = False

    def tensors(self, q: Tensor, k: Tensor) -> tuple[Tensor, ...]:
        """All that `score` reads and gradients reach. Content terms project q [B, H, Q, D], k [B, G, K, D] here, once."""
        raise NotImplementedError

    def within(self, layouts: tuple[Layout, Layout], q: Tensor, k: Tensor) -> tuple[Tensor, ...]:
        """The same for a term that must know where all queries and all keys stand."""
        return self.tensors(q, k)

    def score(self, tensors: tuple[Tensor, ...], q: Coordinates, k: Coordinates) -> Tensor:
        """The addend, broadcast from the coordinates: [B|1, H|1, Q, K] in a tile, a scalar in a compiled kernel."""
        raise NotImplementedError


class Rule(Protocol):
    """What a term may ask of the rule that adds it."""

    scale: float

    def add(self, term: ScoreTerm) -> None: ...


class Host(Protocol):
    """What a term may ask of the attention that it stands in: softmax attention, as far as terms know it."""

    num_heads: int
    d_head: int
    crosses: bool

    @property
    def mask(self) -> Mask: ...

    @property
    def rule(self) -> Rule: ...

    @property
    def q(self) -> nn.Linear: ...

    def at_rest(self, x: Tensor) -> tuple[Tensor, Tensor]: ...


class TermSpec(Spec, slot="bias"):
    """What is added to the scores.

    by_head: a term that a stack shares has something for each head, so that only layers of equally many can share it.
    approximates: it hides pairs to save work, where attention itself would see them.
    """

    by_head: ClassVar[bool] = True
    approximates: ClassVar[bool] = False

    def check(self, *, mask: Mask, cross: bool) -> None:
        """Raises FieldError, naming a field of this spec, where it cannot stand beside a mask, or in cross-attention."""

    def build(self, *, num_heads: int, d_head: int) -> ScoreTerm:
        """The term alone, for so many heads of this width."""
        raise NotImplementedError

    def of(self, attention: Host) -> ScoreTerm:
        """The term of one attention, which may read that attention's own projections."""
        return self.build(num_heads=attention.num_heads, d_head=attention.d_head)

    def shared(self, attentions: Sequence[Host]) -> nn.Module:
        """What a stack keeps of a term for all its attentions: the term itself, unless each was given one of its own."""
        return self.of(attentions[0])


def cut(table: Tensor, place: Coordinates) -> Tensor:
    """table [B, H, T, R] of the tokens and heads of a tile; one that was cut to them already comes back as it is."""
    columns = place.column.flatten()
    if len(columns) != table.shape[2]:
        table = table.index_select(2, columns)
    if place.head.numel() != table.shape[1]:  # some of the heads
        table = table.index_select(1, place.head.flatten())
    return table


def picked(table: Tensor, place: Coordinates, at: Tensor, *, keys: bool = False) -> Tensor:
    """table [B, H, T, R] read at [B|1, 1|H, Q, K]: for every pair the value at `at` of its query, or of its key.

    `place` are the coordinates of that side, and of the heads looked at.
    """
    if at.dim() == 0:  # in a compiled kernel
        return table[place.row, place.head, place.column, at]
    table = cut(table, place)
    at = at.transpose(-1, -2) if keys else at
    found = table.gather(3, at.expand(*table.shape[:3], at.shape[3]))
    return found.transpose(-1, -2) if keys else found


def alibi_slopes(num_heads: int) -> Tensor:
    """[H] slopes of ALiBi (Press et al. 2022): a geometric series; other head counts interleave the next power of two."""

    def series(n: int) -> list[float]:
        return [2.0 ** (-8.0 * (i + 1) / n) for i in range(n)]

    near = 2 ** math.floor(math.log2(num_heads))
    return torch.tensor(series(near) + series(2 * near)[0::2][: num_heads - near])


class ALiBi(ScoreTerm):
    """-slope[h] * |q - k| (Press et al. 2022, arXiv:2108.12409); symmetric, so that encoders can use it too."""

    bounded = True

    def __init__(self, *, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads

    def tensors(self, q: Tensor, k: Tensor) -> tuple[Tensor, ...]:
        return (alibi_slopes(self.num_heads).to(q.device, torch.promote_types(q.dtype, torch.float32)),)

    def score(self, tensors: tuple[Tensor, ...], q: Coordinates, k: Coordinates) -> Tensor:
        return -tensors[0][q.head] * (q.position - k.position).abs()


class ALiBiSpec(TermSpec, kind="alibi"):
    """Linear distance penalty, one slope a head, nothing learned."""

    def build(self, *, num_heads: int, d_head: int) -> ScoreTerm:
        return ALiBi(num_heads=num_heads)


def t5_bucket(distance: Tensor, *, buckets: int, max_distance: int, both: bool) -> Tensor:
    """Bucket of `distance` = key position - query position (Raffel et al. 2020): exact when near, logarithmic when far."""
    base = torch.zeros_like(distance)
    if both:
        buckets //= 2
        base = torch.where(distance > 0, buckets, 0)
        distance = distance.abs()
    else:
        distance = (-distance).clamp(min=0)
    exact = buckets // 2
    # the same operations in the same order as the published model: rounding decides buckets at the borders
    ratio = torch.log(distance.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    far = (exact + (ratio * (buckets - exact)).long()).clamp(max=buckets - 1)
    return base + torch.where(distance < exact, distance, far)


class T5Relative(ScoreTerm):
    """table[bucket(k - q), h]: learned bias by bucketed distance (Raffel et al. 2020, arXiv:1910.10683)."""

    bounded = True

    def __init__(self, *, num_heads: int, buckets: int = 32, max_distance: int = 128, both: bool = True) -> None:
        super().__init__()
        self.buckets, self.max_distance, self.both = buckets, max_distance, both
        self.table = nn.Parameter(torch.empty(buckets, num_heads))
        nn.init.normal_(self.table, std=0.02)

    def tensors(self, q: Tensor, k: Tensor) -> tuple[Tensor, ...]:
        return (self.table,)

    def score(self, tensors: tuple[Tensor, ...], q: Coordinates, k: Coordinates) -> Tensor:
        distance = k.position - q.position
        bucket = t5_bucket(distance, buckets=self.buckets, max_distance=self.max_distance, both=self.both)
        return tensors[0][bucket, q.head]


class T5RelativeSpec(TermSpec, kind="t5_relative"):
    """Learned bias by bucketed distance; `both` sides for encoders, else keys after the query share bucket 0."""

    buckets: int = Field(default=32, ge=4)
    max_distance: int = Field(default=128, ge=2)
    both: bool = True

    @model_validator(mode="after")
    def _reaches(self) -> Self:
        exact = self.buckets // (4 if self.both else 2)
        if self.max_distance <= exact:
            raise FieldError(
                "max_distance", str(self.max_distance), f"must be above {exact}, the distances with buckets of their own"
            )
        return self

    def build(self, *, num_heads: int, d_head: int) -> ScoreTerm:
        return T5Relative(num_heads=num_heads, buckets=self.buckets, max_distance=self.max_distance, both=self.both)


class Shaw(ScoreTerm):
    """q . table[clip(k - q)] / sqrt(d): learned key offsets (Shaw et al. 2018, arXiv:1803.02155), keys only."""

    bounded = True
    static = False
    relative = False  # content: it reads the query, not distances alone

    def __init__(self, *, d_head: int, max_distance: int) -> None:
        super().__init__()
        self.max_distance = max_distance
        self.scale = d_head**-0.5
        self.table = nn.Parameter(torch.empty(2 * max_distance + 1, d_head))
        nn.init.normal_(self.table, std=0.02)

    def tensors(self, q: Tensor, k: Tensor) -> tuple[Tensor, ...]:
        return ((q @ self.table.to(q.dtype).T) * self.scale,)  # [B, H, Q, R]

    def score(self, tensors: tuple[Tensor, ...], q: Coordinates, k: Coordinates) -> Tensor:
        offset = (k.position - q.position).clamp(-self.max_distance, self.max_distance) + self.max_distance
        return picked(tensors[0], q, offset)


class ShawSpec(TermSpec, kind="shaw"):
    """Learned vectors by clipped distance, met by the query; one table for all heads."""

    by_head = False

    max_distance: int = Field(default=16, ge=1)

    def build(self, *, num_heads: int, d_head: int) -> ScoreTerm:
        return Shaw(d_head=d_head, max_distance=self.max_distance)


class GivenBias(ScoreTerm):
    """A float tensor [B|1, H|1, Q, K] handed to `attend`, added as it is."""

    static = False
    relative = False

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.given = (table,)  # a tuple: nobody's buffer

    def tensors(self, q: Tensor, k: Tensor) -> tuple[Tensor, ...]:
        return self.given

    def score(self, tensors: tuple[Tensor, ...], q: Coordinates, k: Coordinates) -> Tensor:
        table = tensors[0]
        row = q.row if table.shape[0] > 1 else torch.zeros_like(q.row)
        head = q.head if table.shape[1] > 1 else torch.zeros_like(q.head)
        return table[row, head, q.column, k.column]
