"""Typed rules between the names of a foreign checkpoint and ours; one table reads both ways.

    Rename("model.layers.{i}.self_attn.o_proj.weight", "stack.blocks.{i}.attention.body.out.weight")

`{i}` (any letters) stands for a number. A rule computes views where it can, and runs on meta tensors too: that is how
shapes and dtypes are compared before anything is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

Shape = tuple[int, ...]


class Pattern:
    """A name with `{i}` for numbers and `{*}` for any text; `bind` takes a name apart, `name` puts one together."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.places = tuple(dict.fromkeys(re.findall(r"\{(\*|\w+)\}", text)))
        self._regex = re.compile(_regex(text), re.ASCII | re.DOTALL)

    def bind(self, name: str) -> dict[str, str] | None:
        """The value of every placeholder, or None where the name is of another pattern."""
        found = self._regex.fullmatch(name)
        if found is None:
            return None
        return {"*" if key == "any" else key[1:]: value for key, value in found.groupdict().items()}

    def name(self, values: dict[str, str]) -> str:
        return re.sub(r"\{(\*|\w+)\}", lambda place: values[place[1]], self.text)


def _regex(text: str) -> str:
    seen: set[str] = set()

    def place(part: str) -> str:
        if not (part.startswith("{") and part.endswith("}")):
            return re.escape(part)
        key = part[1:-1]
        group = "any" if key == "*" else f"_{key}"
        if group in seen:
            return f"(?P={group})"
        seen.add(group)
        return f"(?P<{group}>.*)" if key == "*" else f"(?P<{group}>0|[1-9][0-9]*)"

    return "".join(place(part) for part in re.split(r"(\{(?:\*|\w+)\})", text))


@dataclass(frozen=True)
class Rule:
    """Reads some of their tensors and makes some of ours, and back; a new kind of rule is a subclass."""

    @property
    def their_names(self) -> tuple[str, ...]:
        raise NotImplementedError

    @property
    def our_names(self) -> tuple[str, ...]:
        raise NotImplementedError

    @cached_property
    def theirs_of(self) -> tuple[Pattern, ...]:
        return tuple(Pattern(name) for name in self.their_names)

    @cached_property
    def ours_of(self) -> tuple[Pattern, ...]:
        return tuple(Pattern(name) for name in self.our_names)

    def __post_init__(self) -> None:
        places = {frozenset(pattern.places) for pattern in (*self.theirs_of, *self.ours_of)}
        if len(places) > 1:
            raise ValueError(f"{self}: the names of a rule carry the same placeholders")

    def load(self, theirs: Sequence[Tensor], shapes: Sequence[Shape] | None) -> Sequence[Tensor]:
        """Our tensors from theirs; `shapes` are those our model has, where they are known."""
        raise NotImplementedError

    def save(self, ours: Sequence[Tensor]) -> Sequence[Tensor]:
        """Their tensors from ours."""
        raise NotImplementedError


@dataclass(frozen=True)
class Rename(Rule):
    """One of theirs is one of ours; `transpose` where they store [in, out]."""

    theirs: str
    ours: str
    transpose: bool = False

    @property
    def their_names(self) -> tuple[str, ...]:
        return (self.theirs,)

    @property
    def our_names(self) -> tuple[str, ...]:
        return (self.ours,)

    def load(self, theirs: Sequence[Tensor], shapes: Sequence[Shape] | None) -> Sequence[Tensor]:
        return (_turned(theirs[0], self.transpose),)

    def save(self, ours: Sequence[Tensor]) -> Sequence[Tensor]:
        return (_turned(ours[0], self.transpose),)


def renames(
    theirs: str, ours: str, names: Mapping[str, str], *, parts: Sequence[str] = ("weight", "bias"), transpose: bool = False
) -> list[Rename]:
    """Rename(theirs + name + part, ours + our name + part) for every name and part; only weights are transposed."""
    return [
        Rename(f"{theirs}{name}.{part}", f"{ours}{our}.{part}", transpose and part == "weight")
        for name, our in names.items()
        for part in parts
    ]


@dataclass(frozen=True)
class Row(Rule):
    """One of theirs, whose dimensions `ones` are of size 1, is one of ours without them: [1, N] and [N]."""

    theirs: str
    ours: str
    ones: tuple[int, ...] = (0,)

    @property
    def their_names(self) -> tuple[str, ...]:
        return (self.theirs,)

    @property
    def our_names(self) -> tuple[str, ...]:
        return (self.ours,)

    def load(self, theirs: Sequence[Tensor], shapes: Sequence[Shape] | None) -> Sequence[Tensor]:
        if theirs[0].dim() <= max(self.ones) or any(theirs[0].shape[d] != 1 for d in self.ones):
            raise ValueError("is no single row")
        return (theirs[0].squeeze(self.ones),)

    def save(self, ours: Sequence[Tensor]) -> Sequence[Tensor]:
        found = ours[0]
        for d in self.ones:
            found = found.unsqueeze(d)
        return (found,)


@dataclass(frozen=True)
class Split(Rule):
    """One of theirs holds several of ours along `dim` (once turned); `groups` where they lie by head: [h, 3, d]."""

    theirs: str
    ours: tuple[str, ...]
    dim: int = 0
    transpose: bool = False
    groups: int = 1

    @property
    def their_names(self) -> tuple[str, ...]:
        return (self.theirs,)

    @property
    def our_names(self) -> tuple[str, ...]:
        return self.ours

    def load(self, theirs: Sequence[Tensor], shapes: Sequence[Shape] | None) -> Sequence[Tensor]:
        whole = _turned(theirs[0], self.transpose)
        total, dim = whole.shape[self.dim], self.dim
        sizes = [shape[dim] for shape in shapes] if shapes else [total // len(self.ours)] * len(self.ours)
        if sum(sizes) != total or any(size % self.groups for size in sizes):
            raise ValueError(f"cannot be cut into {sizes} along dimension {dim}")
        if self.groups == 1:
            return torch.split(whole, sizes, dim)
        grouped = torch.unflatten(whole, dim, (self.groups, total // self.groups))
        parts = torch.split(grouped, [size // self.groups for size in sizes], dim + 1)
        return [part.flatten(dim, dim + 1) for part in parts]

    def save(self, ours: Sequence[Tensor]) -> Sequence[Tensor]:
        if self.groups == 1:
            return (_turned(torch.cat(list(ours), self.dim), self.transpose),)
        parts = [torch.unflatten(part, self.dim, (self.groups, -1)) for part in ours]
        return (_turned(torch.cat(parts, self.dim + 1).flatten(self.dim, self.dim + 1), self.transpose),)


@dataclass(frozen=True)
class Join(Rule):
    """Several of theirs lie one after another along `dim` in one of ours: `Split` the other way."""

    theirs: tuple[str, ...]
    ours: str
    sizes: tuple[int, ...]
    dim: int = 0

    @property
    def their_names(self) -> tuple[str, ...]:
        return self.theirs

    @property
    def our_names(self) -> tuple[str, ...]:
        return (self.ours,)

    def load(self, theirs: Sequence[Tensor], shapes: Sequence[Shape] | None) -> Sequence[Tensor]:
        if tuple(tensor.shape[self.dim] for tensor in theirs) != self.sizes:
            raise ValueError(f"are not {self.sizes} along dimension {self.dim}")
        return (torch.cat(list(theirs), self.dim),)

    def save(self, ours: Sequence[Tensor]) -> Sequence[Tensor]:
        return torch.split(ours[0], list(self.sizes), self.dim)


@dataclass(frozen=True)
class Stack(Rule):
    """`count` of theirs, numbered by the placeholder `{over}`, are one of ours with a new first dimension (experts)."""

    theirs: str
    ours: str
    count: int
    over: str = "e"
    transpose: bool = False

    @property
    def their_names(self) -> tuple[str, ...]:
        return tuple(self.theirs.replace("{" + self.over + "}", str(number)) for number in range(self.count))

    @property
    def our_names(self) -> tuple[str, ...]:
        return (self.ours,)

    def load(self, theirs: Sequence[Tensor], shapes: Sequence[Shape] | None) -> Sequence[Tensor]:
        return (torch.stack([_turned(tensor, self.transpose) for tensor in theirs]),)

    def save(self, ours: Sequence[Tensor]) -> Sequence[Tensor]:
        return [_turned(tensor, self.transpose) for tensor in ours[0].unbind(0)]


@dataclass(frozen=True)
class Tied:
    """Their tensor repeats one of ours: values are compared, and it is not written back."""

    theirs: str
    ours: str


@dataclass(frozen=True)
class Ignore:
    """Their tensors of this pattern carry nothing that we would read, and why."""

    theirs: str
    why: str


@dataclass(frozen=True)
class Alias:
    """An older spelling of their names, read as if it were the newer one; never written."""

    old: str
    new: str


def _turned(tensor: Tensor, transpose: bool) -> Tensor:
    return tensor.transpose(-2, -1) if transpose else tensor


def pattern_of(name: str) -> str:
    """`name` with `{i}` for every number that stands between dots: the group it is reported in."""
    return re.sub(r"(?<![^.])[0-9]+(?![^.])", "{i}", name)
