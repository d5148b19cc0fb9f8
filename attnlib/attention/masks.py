"""Masks: who is seen. A mask is a frozen value over coordinates; it knows no tensor of the batch and is its own spec.

That a token sees only its own segment (and that what is no token is never seen) holds always and needs no mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import and_, or_
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field, PrivateAttr, model_validator
from torch import Tensor

from attnlib.layout import GLOBAL, PREFIX, Coordinates, Layout
from attnlib.spec import FieldError, Spec

Blocks = Literal["none", "some", "all"]


class Span(NamedTuple):
    """Blocks of tokens of one side, by the bounds of their positions, both included: ints, or tensors that broadcast.

    tag: the bits that any of a block's tokens has; head: which query heads, None = any of them.
    """

    first: Any
    last: Any
    tag: Any = None
    head: Any = None


class Reach(NamedTuple):
    """What is known between blocks, each a bool or a tensor of them: `some` may be seen, `all` certainly is."""

    some: Any
    all: Any


class Retention(NamedTuple):
    """Which past keys a mask can still see: the `first` positions and the `last` before the query (None = all)."""

    first: int = 0
    last: int | None = None


class Mask(Spec, slot="mask"):
    """A pattern over pairs of tokens. Combine with & | ~ ; in YAML a list means all of its members.

    approximates: hides pairs to save work, where attention itself would see them.
    """

    approximates: ClassVar[bool] = False

    def visible(self, q: Coordinates, k: Coordinates) -> Tensor:
        """Bool, broadcast from the coordinates: may query `q` see key `k`?"""
        raise NotImplementedError

    def reach(self, q: Span, k: Span) -> Reach:
        """What holds between whole blocks, for ints and tensors alike: lets a kernel skip tiles.

        `some` without `all` is always a right answer.
        """
        return Reach(True, False)

    def blocks(self, q: range, k: range) -> Blocks:
        """The same between two ranges of positions, in a word."""
        found = self.reach(Span(q[0], q[-1]), Span(k[0], k[-1]))
        return "all" if found.all else "some" if found.some else "none"

    def by_head(self, device: torch.device | str = "cpu") -> bool:
        """Whether it may treat heads unlike; told by the shape of its answer, whatever it is made of."""
        one = Layout.dense(1, 1, device=device)
        return self.visible(one.coordinates("q", heads=2), one.coordinates("k", heads=2)).shape[1] > 1

    def in_layer(self, layer: int) -> Mask:
        """The mask of layer number `layer` (from 0); itself unless layers see unlike."""
        return self

    def positional(self) -> bool:
        """Whether it reads positions alone, so that a segment cut out of its batch is masked alike."""
        return False

    def keeps(self) -> Retention:
        """How much of the past a cache must keep for this mask."""
        return Retention()

    def __and__(self, other: Mask) -> Mask:
        return AllOf(masks=(*_members(self, AllOf), *_members(other, AllOf)))

    def __or__(self, other: Mask) -> Mask:
        return AnyOf(masks=(*_members(self, AnyOf), *_members(other, AnyOf)))

    def __invert__(self) -> Mask:
        return Not(mask=self)

    @classmethod
    def short(cls, tree: Any) -> Any:
        """YAML shorthand: a list of masks is all of them."""
        return {"kind": "all", "masks": tree} if isinstance(tree, list | tuple) else tree

    @classmethod
    def short_forms(cls) -> tuple[Any, ...]:
        return (tuple[Mask, ...],)


class Everything(Mask, kind="everything"):
    """All tokens of the segment: the bidirectional mask."""

    def positional(self) -> bool:
        return True

    def visible(self, q: Coordinates, k: Coordinates) -> Tensor:
        return (q.position == q.position) & (k.position == k.position)

    def reach(self, q: Span, k: Span) -> Reach:
        return Reach(True, True)


class Causal(Mask, kind="causal"):
    """Keys at or before the query."""

    def positional(self) -> bool:
        return True

    def visible(self, q: Coordinates, k: Coordinates) -> Tensor:
        return k.position <= q.position

    def reach(self, q: Span, k: Span) -> Reach:
        return Reach(k.first <= q.last, k.last <= q.first)


class Window(Mask, kind="window"):
    """At most `before` tokens before and `after` tokens after the query, itself not counted; null = no bound."""

    approximates: ClassVar[bool] = True
    before: int | None = Field(default=None, ge=0)
    after: int | None = Field(default=None, ge=0)

    def positional(self) -> bool:
        return True

    def visible(self, q: Coordinates, k: Coordinates) -> Tensor:
        seen = (q.position == q.position) & (k.position == k.position)
        if self.before is not None:
            seen = seen & (q.position - k.position <= self.before)
        if self.after is not None:
            seen = seen & (k.position - q.position <= self.after)
        return seen

    def reach(self, q: Span, k: Span) -> Reach:
        far, near = q.last - k.first, q.first - k.last  # the largest and the smallest distance back
        some: Any = True
        inside: Any = True
        if self.before is not None:
            some, inside = some & (near <= self.before), inside & (far <= self.before)
        if self.after is not None:
            some, inside = some & (-far <= self.after), inside & (-near <= self.after)
        return Reach(some, inside)

    def keeps(self) -> Retention:
        return Retention(0, self.before)


class Chunk(Mask, kind="chunk"):
    """Tokens of the same chunk of `size` positions."""

    approximates: ClassVar[bool] = True
    size: int = Field(ge=1)

    def positional(self) -> bool:
        return True

    def visible(self, q: Coordinates, k: Coordinates) -> Tensor:
        return q.position // self.size == k.position // self.size

    def reach(self, q: Span, k: Span) -> Reach:
        queries, keys = (q.first // self.size, q.last // self.size), (k.first // self.size, k.last // self.size)
        one = (queries[0] == queries[1]) & (keys[0] == keys[1]) & (queries[0] == keys[0])
        return Reach((queries[1] >= keys[0]) & (keys[1] >= queries[0]), one)

    def keeps(self) -> Retention:
        return Retention(0, self.size - 1)


class First(Mask, kind="first"):
    """The first `count` tokens of the segment, seen by all (attention sinks)."""

    count: int = Field(ge=1)

    def positional(self) -> bool:
        return True

    def visible(self, q: Coordinates, k: Coordinates) -> Tensor:
        return (k.position < self.count) & (q.position == q.position)

    def reach(self, q: Span, k: Span) -> Reach:
        return Reach(k.first < self.count, k.last < self.count)

    def keeps(self) -> Retention:
        return Retention(self.count, 0)


class Prefix(Mask, kind="prefix"):
    """Tokens that the layout tags as prefix, seen by all: with `causal` in an `any`, the prefix language model."""

    def visible(self, q: Coordinates, k: Coordinates) -> Tensor:
        return ((k.tag & PREFIX) != 0) & (q.position == q.position)

    def reach(self, q: Span, k: Span) -> Reach:
        return Reach(True if k.tag is None else (k.tag & PREFIX) != 0, False)


class Global(Mask, kind="global"):
    """Pairs of which one side is tagged global by the layout."""

    def visible(self, q: Coordinates, k: Coordinates) -> Tensor:
        return ((q.tag | k.tag) & GLOBAL) != 0

    def reach(self, q: Span, k: Span) -> Reach:
        return Reach(True if q.tag is None or k.tag is None else ((q.tag | k.tag) & GLOBAL) != 0, False)


class SameSegment(Mask, kind="same_segment"):
    """Tokens of one segment. Holds for every mask; named so that it can be drawn and negated."""

    def positional(self) -> bool:
        return True

    def visible(self, q: Coordinates, k: Coordinates) -> Tensor:
        return (q.segment == k.segment) & (k.segment >= 0)


class Explicit(Mask, kind="explicit"):
    """A drawn table: row q, column k by position, `#` seen and `.` not; positions beyond the table see nothing."""

    rows: tuple[str, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _drawn(self) -> Explicit:
        if any(len(row) != len(self.rows[0]) or set(row) - {"#", "."} or not row for row in self.rows):
            raise FieldError("rows", "an uneven drawing", "wish rows of one length made of '#' and '.'")
        return self

    def positional(self) -> bool:
        return True

    def visible(self, q: Coordinates, k: Coordinates) -> Tensor:
        height, width = len(self.rows), len(self.rows[0])
        table = torch.tensor([[c == "#" for c in row] for row in self.rows], device=q.position.device)
        inside = (q.position < height) & (k.position < width)
        return inside & table[q.position.clamp(max=height - 1), k.position.clamp(max=width - 1)]

    def reach(self, q: Span, k: Span) -> Reach:
        return Reach((q.first < len(self.rows)) & (k.first < len(self.rows[0])), False)


class AllOf(Mask, kind="all"):
    """Seen by every one of `masks`."""

    masks: tuple[Mask, ...] = Field(min_length=1)

    def positional(self) -> bool:
        return all(m.positional() for m in self.masks)

    def visible(self, q: Coordinates, k: Coordinates) -> Tensor:
        return reduce(torch.logical_and, (m.visible(q, k) for m in self.masks))

    def reach(self, q: Span, k: Span) -> Reach:
        held = [m.reach(q, k) for m in self.masks]
        return Reach(reduce(and_, (r.some for r in held)), reduce(and_, (r.all for r in held)))

    def in_layer(self, layer: int) -> Mask:
        return _in_layer(self, layer)

    def keeps(self) -> Retention:
        bounded = [r for r in (m.keeps() for m in self.masks) if r.last is not None]
        return min(bounded, key=lambda r: r.first + (r.last or 0)) if bounded else Retention()


class AnyOf(Mask, kind="any"):
    """Seen by at least one of `masks`."""

    masks: tuple[Mask, ...] = Field(min_length=1)

    def positional(self) -> bool:
        return all(m.positional() for m in self.masks)

    def visible(self, q: Coordinates, k: Coordinates) -> Tensor:
        return reduce(torch.logical_or, (m.visible(q, k) for m in self.masks))

    def reach(self, q: Span, k: Span) -> Reach:
        held = [m.reach(q, k) for m in self.masks]
        return Reach(reduce(or_, (r.some for r in held)), reduce(or_, (r.all for r in held)))

    def in_layer(self, layer: int) -> Mask:
        return _in_layer(self, layer)

    def keeps(self) -> Retention:
        return keeps_any(self.masks)


class Not(Mask, kind="not"):
    """Seen where `mask` does not see."""

    mask: Mask

    def positional(self) -> bool:
        return self.mask.positional()

    def visible(self, q: Coordinates, k: Coordinates) -> Tensor:
        return ~self.mask.visible(q, k)

    def reach(self, q: Span, k: Span) -> Reach:
        found = self.mask.reach(q, k)
        return Reach(found.all ^ True, found.some ^ True)

    def in_layer(self, layer: int) -> Mask:
        inner = self.mask.in_layer(layer)
        return self if inner is self.mask else Not(mask=inner)


class Given(Mask):
    """A bool tensor [B|1, H|1, Q, K] handed to `attend`; not a spec of a model, since a batch is in it."""

    _table: Tensor = PrivateAttr()

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self._table = table

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other  # the same tensor may hold something else by then

    def visible(self, q: Coordinates, k: Coordinates) -> Tensor:
        batch, heads = self._table.shape[:2]
        row = q.row if batch > 1 else torch.zeros_like(q.row)
        head = q.head if heads > 1 else torch.zeros_like(q.head)
        return self._table[row, head, q.column, k.column]


class Terms(NamedTuple):
    """The normal form of a mask: bounds that kernels know, and the rest, which a kernel must refuse or materialise."""

    before: int | None
    after: int | None
    rest: Mask | None

    @property
    def causal(self) -> bool:
        return self.after == 0


def terms(mask: Mask) -> Terms:
    """The total normal form: mask == window(before, after) & rest, always."""
    before: int | None = None
    after: int | None = None
    rest: list[Mask] = []
    for part in _members(mask, AllOf):
        match part:
            case Everything() | SameSegment():
                pass
            case Causal():
                after = 0
            case Window():
                before = part.before if before is None else before if part.before is None else min(before, part.before)
                after = part.after if after is None else after if part.after is None else min(after, part.after)
            case _:
                rest.append(part)
    return Terms(before, after, None if not rest else rest[0] if len(rest) == 1 else AllOf(masks=tuple(rest)))


def picture(mask: Mask, queries: int, keys: int | None = None) -> str:
    """The mask drawn: a word a query, `#` where it sees. picture(Causal(), 3) == "#..  ##.  ###"."""
    q, k = Layout.dense(1, queries), Layout.dense(1, queries if keys is None else keys)
    seen = mask.visible(q.coordinates("q"), k.coordinates("k")).expand(1, 1, q.tokens, k.tokens)[0, 0]
    return "  ".join("".join("#" if cell else "." for cell in row) for row in seen.tolist())


def keeps_any(masks: Sequence[Mask]) -> Retention:
    """What a cache must keep for all of `masks`."""
    kept = [m.keeps() for m in masks]
    lasts = [r.last for r in kept]
    return Retention(max(r.first for r in kept), None if None in lasts else max(r for r in lasts if r is not None))


def _in_layer(mask: AllOf | AnyOf, layer: int) -> Mask:
    members = tuple(m.in_layer(layer) for m in mask.masks)
    return mask if all(a is b for a, b in zip(members, mask.masks)) else type(mask)(masks=members)


def _members(mask: Mask, kind: type[AllOf] | type[AnyOf]) -> tuple[Mask, ...]:
    if type(mask) is kind:
        return tuple(leaf for member in mask.masks for leaf in _members(member, kind))
    return (mask,)
