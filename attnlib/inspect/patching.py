"""Activation patching: one place of a run on a corrupt text given the value it had on a clean one."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnlib.errors import LayoutError, UsageError
from attnlib.generate.prompts import evaluating
from attnlib.inspect.lenses import of_source, streams
from attnlib.inspect.question import TOKENS_AT_ONCE, Question
from attnlib.inspect.reading import Reading, Side
from attnlib.inspect.recording import record
from attnlib.inspect.sites import Look, Site, sites_named, watching

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PatchedSite:
    """values [T]: the target's logit where the clean value stood at this site in column t alone.

    site: its name, of a head with the head's number; side: whose columns they are.
    """

    site: str
    side: str
    values: Array


@dataclass(frozen=True, eq=False)
class Patching:
    """The target's logit on the clean text, on the corrupt one, and on that with one value patched.

    estimated: values are first-order estimates. texts: clean and corrupt, whose columns stand over each other.
    """

    target: str
    clean: float
    corrupt: float
    estimated: bool
    sites: tuple[PatchedSite, ...]
    texts: tuple[Reading, Reading]

    def effect(self, one: PatchedSite) -> Array:
        """[T] how far each patch moved the logit."""
        return one.values - self.corrupt

    def restored(self, one: PatchedSite) -> Array:
        """[T] the effects in parts of the whole way from corrupt (0) to clean (1); NaN where there is no way to go."""
        way = self.clean - self.corrupt
        return self.effect(one) / way if way else np.full(len(one.values), np.nan)

    def tokens(self, side: str) -> list[tuple[str, str]]:
        """The names of the clean and of the corrupt token of each column."""
        both = [next(s for s in text.sides if s.name == side).tokens for text in self.texts]
        return list(zip(*both, strict=True))

    def tree(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        sides = [
            {"name": clean.name, "clean": list(clean.tokens), "corrupt": list(corrupt.tokens)}
            for clean, corrupt in zip(self.texts[0].sides, self.texts[1].sides, strict=True)
        ]
        rows = [{"site": one.site, "side": one.side, "values": one.values.tolist()} for one in self.sites]
        figures = {"target": self.target, "clean": self.clean, "corrupt": self.corrupt, "estimated": self.estimated}
        return {**figures, "sides": sides, "sites": rows}

    def csv(self) -> str:
        """A line a site and position."""
        out = io.StringIO()
        lines = csv.writer(out, lineterminator="\n")
        lines.writerow(["site", "side", "position", "clean_token", "corrupt_token", "value", "effect", "restored"])
        for one in self.sites:
            cells = zip(self.tokens(one.side), one.values, self.effect(one), self.restored(one), strict=True)
            for position, (names, *figures) in enumerate(cells):
                lines.writerow([one.site, one.side, position, *names, *(repr(float(value)) for value in figures)])
        return out.getvalue()


def patch(
    question: Question, corrupt: Reading, site: str | Sequence[str] | None = None, *, gradient: bool = False
) -> Patching:
    """The target's logit of the corrupt text with the clean value of one site and column, each by itself.

    question: a single target of the clean text. site: names or patterns of sites, `.heads` giving each head alone; None =
    the stream after each block and at each stack's beginning. gradient: attribution patching, the first-order estimate
    (clean - corrupt) . d logit / d value at the corrupt run, all sites in one backward (Nanda 2023; Syed et al. 2023,
    arXiv:2310.10348); else each patch is run (Vig et al. 2020; Meng et al. 2022, arXiv:2202.05262).
    Raises UsageError for several targets and unknown sites, LayoutError for texts of unlike length.
    """
    if len(question.targets) != 1:
        raise UsageError("target", f"{len(question.targets)} are asked for", "patching moves one")
    alike(question.reading, corrupt)
    chosen = streams(question.model) if site is None else sites_named(question.model, site)
    other = replace(question, reading=corrupt)
    with evaluating(question.model):
        with torch.no_grad(), record(question.model, weights=False, activations=[one.name for one in chosen]) as seen:
            clean = float(question.values(question.logits(question.inputs()))[0, 0])
            before = float(other.values(other.logits(other.inputs()))[0, 0])
        kept = {one.name: seen.activations[one.name][0] for one in chosen}
        found = _estimated(other, chosen, kept, before) if gradient else _run(other, chosen, kept)
        return Patching(question.targets[0].name, clean, before, gradient, tuple(found), (question.reading, corrupt))


def alike(clean: Reading, corrupt: Reading) -> None:
    """Raises LayoutError where two readings have not as many tokens."""
    for a, b in zip(clean.sides, corrupt.sides, strict=True):
        if len(a) != len(b):
            raise LayoutError(f"corrupt {b.name}", f"has {len(b)} tokens, the clean one {len(a)}",
                              "each column needs one to take from", _differing(a, b))  # fmt: skip


def _differing(a: Side, b: Side) -> str:
    at = next((n for n, (x, y) in enumerate(zip(a.ids, b.ids)) if x != y), min(len(a), len(b)))
    return f"they part at token {at}"


def _run(other: Question, chosen: Sequence[Site], kept: dict[str, Tensor]) -> Iterator[PatchedSite]:
    """Every patch as a row of some forward."""
    size = max(1, TOKENS_AT_ONCE // sum(len(side) for side in other.sides))
    for one in chosen:
        value = kept[one.name]  # [1, T, M] or [1, T, H, D]
        places = value.shape[1:-1]
        marks = torch.eye(places.numel(), dtype=torch.bool, device=value.device).unflatten(1, places)
        found = []
        for some in marks.split(size):
            with torch.no_grad(), watching(other.model, {one.name: _put(some[..., None], value)}):
                found.append(other.values(other.logits(other.inputs(len(some))))[:, 0].double().cpu())
        yield from _named(other, one, torch.cat(found).unflatten(0, places))


def _put(marks: Tensor, value: Tensor) -> Look:
    return lambda x: torch.where(marks, value, x)


def _estimated(other: Question, chosen: Sequence[Site], kept: dict[str, Tensor], before: float) -> Iterator[PatchedSite]:
    """All patches to first order, from one forward and one backward of the corrupt text."""
    passed: dict[str, Tensor] = {}

    def note(name: str) -> Look:
        def look(x: Tensor) -> Tensor:
            passed[name] = x
            return x  # put back, so that of a head's view too the rest of the run hangs on it

        return look

    inputs = {name: replace(rows, embeds=rows.embeds.clone().requires_grad_()) for name, rows in other.inputs().items()}
    with torch.enable_grad(), watching(other.model, {one.name: note(one.name) for one in chosen}):
        value = other.values(other.logits(inputs))[0, 0]
    grads = torch.autograd.grad(value, list(passed.values()), allow_unused=True, materialize_grads=True)
    slopes = dict(zip(passed, grads, strict=True))
    for one in chosen:
        way = kept[one.name].double() - passed[one.name].detach().double()
        moved = (way * slopes[one.name].double()).sum(-1)[0].cpu()  # [T] or [T, H]
        yield from _named(other, one, before + moved)


def _named(other: Question, site: Site, values: Tensor) -> Iterator[PatchedSite]:
    """[T] of a site, or [T, H] of its heads, each under its name."""
    side = "source" if of_source(other, site.name) else "text"
    if values.dim() == 1:
        yield PatchedSite(site.name, side, np.asarray(values.numpy()))
    for head in range(values.shape[1] if values.dim() > 1 else 0):
        yield PatchedSite(f"{site.name}.{head}", side, np.asarray(values[:, head].numpy()))
