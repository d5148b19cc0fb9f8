"""Sparse patterns from papers, each a mask over positions; `causal` beside one in a list makes it causal."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor

from attnlib.attention.masks import AllOf, AnyOf, Everything, Mask, Reach, Retention, Span, keeps_any
from attnlib.layout import Coordinates
from attnlib.spec import FieldError


class Dilated(Mask, kind="dilated"):
    """A window with gaps: keys at a distance that is a multiple of `step`, at most `before` and `after` such steps away.

    null = no bound. Longformer's dilated window (Beltagy et al. 2020, arXiv:2004.05150).
    """

    approximates: ClassVar[bool] = True
    step: int = Field(ge=1)
    before: int | None = Field(default=None, ge=0)
    after: int | None = Field(default=None, ge=0)

    def positional(self) -> bool:
        return True

    def visible(self, q: Coordinates, k: Coordinates) -> Tensor:
        distance = q.position - k.position
        seen: Tensor = distance % self.step == 0
        if self.before is not None:
            seen = seen & (distance <= self.before * self.step)
        if self.after is not None:
            seen = seen & (distance >= -self.after * self.step)
        return seen

    def reach(self, q: Span, k: Span) -> Reach:
        near, far = q.first - k.last, q.last - k.first  # the smallest and the largest distance back
        some = far // self.step * self.step >= near  # a multiple lies between them
        inside = (near == far) | (self.step == 1)
        if self.before is not None:
            some, inside = some & (near <= self.before * self.step), inside & (far <= self.before * self.step)
        if self.after is not None:
            some, inside = some & (far >= -self.after * self.step), inside & (near >= -self.after * self.step)
        return Reach(some, some & inside)

    def keeps(self) -> Retention:
        return Retention(0, None if self.before is None else self.before * self.step)


class Strided(Mask, kind="strided"):
    """The Sparse Transformer's strided pattern: the nearest `stride` tokens, and every `stride`-th one beyond.

    part: both, or one of them for a head or a layer (local, strided). Child et al. 2019, arXiv:1904.10509.
    """

    approximates: ClassVar[bool] = True
    stride: int = Field(ge=1)
    part: Literal["both", "local", "strided"] = "both"

    def positional(self) -> bool:
        return True

    def visible(self, q: Coordinates, k: Coordinates) -> Tensor:
        distance = q.position - k.position
        local, strided = distance.abs() <= self.stride, distance % self.stride == 0
        return cast(Tensor, _part(self.part, local, strided))

    def reach(self, q: Span, k: Span) -> Reach:
        near, far = q.first - k.last, q.last - k.first
        local = Reach((near <= self.stride) & (far >= -self.stride), (far <= self.stride) & (near >= -self.stride))
        met = far // self.stride * self.stride >= near
        strided = Reach(met, met & ((near == far) | (self.stride == 1)))
        return Reach(*(_part(self.part, a, b) for a, b in zip(local, strided)))

    def keeps(self) -> Retention:
        return Retention(0, self.stride if self.part == "local" else None)


class Fixed(Mask, kind="fixed"):
    """The Sparse Transformer's fixed pattern: the query's own block of `block` tokens, and the last `summary` of each.

    part: both, or one of them for a head or a layer (local, summary). Child et al. 2019, arXiv:1904.10509.
    """

    approximates: ClassVar[bool] = True
    block: int = Field(ge=1)
    summary: int = Field(default=8, ge=1)
    part: Literal["both", "local", "summary"] = "both"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.summary > self.block:
            raise FieldError("summary", str(self.summary), f"must be at most the block ({self.block})")
        return self

    def positional(self) -> bool:
        return True

    def visible(self, q: Coordinates, k: Coordinates) -> Tensor:
        local = q.position // self.block == k.position // self.block
        summary = (k.position % self.block >= self.block - self.summary) & (q.position >= 0)
        return cast(Tensor, _part(self.part, local, summary))

    def reach(self, q: Span, k: Span) -> Reach:
        own, theirs = (q.first // self.block, q.last // self.block), (k.first // self.block, k.last // self.block)
        one = (own[0] == own[1]) & (theirs[0] == theirs[1]) & (own[0] == theirs[0])
        local = Reach((own[1] >= theirs[0]) & (theirs[1] >= own[0]), one)
        from_ = self.block - self.summary  # where the summary of a block begins
        some = (k.last + self.summary) // self.block > k.first // self.block
        whole = (theirs[0] == theirs[1]) & (k.first % self.block >= from_)
        return Reach(*(_part(self.part, a, b) for a, b in zip(local, Reach(some, whole))))

    def keeps(self) -> Retention:
        return Retention(0, self.block - 1 if self.part == "local" else None)


class DilatedSegments(Mask, kind="dilated_segments"):
    """LongNet's dilated attention: for each pair (length, rate), every rate-th token of each segment of that length.

    Head h begins at token h mod rate of a segment, and its other tokens neither see nor are seen under that pair; what any
    pair lets see is seen, once, where the paper weighs a key by the number of its pairs. Ding et al. 2023, arXiv:2307.02486.
    """

    approximates: ClassVar[bool] = True
    lengths: tuple[int, ...] = Field(min_length=1)
    rates: tuple[int, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _paired(self) -> Self:
        if len(self.rates) != len(self.lengths) or min(self.rates + self.lengths) < 1:
            raise FieldError("rates", str(list(self.rates)), f"wish one >= 1 for each of {len(self.lengths)} lengths >= 1")
        return self

    def positional(self) -> bool:
        return True

    def visible(self, q: Coordinates, k: Coordinates) -> Tensor:
        found: Tensor | None = None
        for length, rate in zip(self.lengths, self.rates):
            seen = q.position // length == k.position // length
            if rate > 1:
                seen = seen & (q.position % length % rate == q.head % rate) & (k.position % length % rate == q.head % rate)
            found = seen if found is None else found | seen
        assert found is not None
        return found

    def reach(self, q: Span, k: Span) -> Reach:
        some: Any = False
        whole: Any = False
        for length, rate in zip(self.lengths, self.rates):
            own, theirs = (q.first // length, q.last // length), (k.first // length, k.last // length)
            some = some | ((own[1] >= theirs[0]) & (theirs[1] >= own[0]))
            if rate == 1:
                whole = whole | ((own[0] == own[1]) & (theirs[0] == theirs[1]) & (own[0] == theirs[0]))
        return Reach(some, whole)

    def keeps(self) -> Retention:
        return Retention(0, max(self.lengths) - 1)


class ByHead(Mask, kind="by_head"):
    """Another pattern for each head: head h has masks[h mod n]."""

    masks: tuple[Mask, ...] = Field(min_length=1)

    def positional(self) -> bool:
        return all(m.positional() for m in self.masks)

    def visible(self, q: Coordinates, k: Coordinates) -> Tensor:
        found = self.masks[0].visible(q, k)
        for i, mask in enumerate(self.masks[1:], start=1):
            found = torch.where(q.head % len(self.masks) == i, mask.visible(q, k), found)
        return found

    def reach(self, q: Span, k: Span) -> Reach:
        held = [m.reach(q, k) for m in self.masks]
        if q.head is None:
            return Reach(any_of(r.some for r in held), any_of(r.all ^ True for r in held) ^ True)
        some, whole = (any_of((q.head % len(held) == i) & r[part] for i, r in enumerate(held)) for part in (0, 1))
        return Reach(some, whole)

    def keeps(self) -> Retention:
        return keeps_any(self.masks)

    def in_layer(self, layer: int) -> Mask:
        members = tuple(m.in_layer(layer) for m in self.masks)
        return self if all(a is b for a, b in zip(members, self.masks)) else ByHead(masks=members)


def filled(mask: Mask) -> Mask:
    """The mask without the patterns in it that approximate: `causal` of `causal` and a window; itself where it has none."""
    if mask.approximates:
        return Everything()
    if not isinstance(mask, AllOf | AnyOf | ByHead):
        return mask
    parts = tuple(filled(m) for m in mask.masks)
    if isinstance(mask, AllOf):
        parts = tuple(m for m in parts if not isinstance(m, Everything)) or parts[:1]
    elif isinstance(mask, AnyOf):
        parts = next(((m,) for m in parts if isinstance(m, Everything)), parts)
    return parts[0] if len({*parts}) == 1 else mask if parts == mask.masks else type(mask)(masks=parts)


def any_of(found: Any) -> Any:
    """The disjunction of bools, or of tensors of them."""
    total: Any = False
    for one in found:
        total = total | one
    return total


def _part(part: str, local: Any, far: Any) -> Any:
    return local | far if part == "both" else local if part == "local" else far
