"""Head reports: what each head of a model looks at, beside what it would were positions shuffled."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attnlib.errors import UsageError
from attnlib.generate.prompts import device_of, evaluating
from attnlib.inspect.choice import Names
from attnlib.inspect.head_scores import ALL_KINDS, KINDS, HeadScoring, Marked, Tally
from attnlib.inspect.reading import Reading, Side
from attnlib.inspect.recording import record

RARE = 0.1  # of all tokens of the texts, the rarest
TIMES, DEVIATIONS, SHARE = 2.0, 3.0, 0.5  # of the baseline, above it, of the best head's excess: what names a head


@dataclass(frozen=True)
class HeadScore:
    """One score of one head, beside its baseline: the mean and the standard deviation were the keys shuffled.

    value:  mass in [0, 1], the mean over `queries`; of `positional` the share of the squared weights that distance tells.
    offset: of `positional`, the distance back (q - k) that takes the most.
    """

    path: str
    head: int
    kind: str
    value: float
    baseline: float
    deviation: float | None
    queries: int
    offset: int | None = None

    @property
    def name(self) -> str:
        """The head as `record` and `ablated` take it: "decoder.3.self.5"."""
        return f"{self.path}.{self.head}"

    @property
    def excess(self) -> float:
        """How far above the baseline."""
        return self.value - self.baseline


@dataclass(frozen=True, eq=False)
class HeadReport:
    """The scores of all heads over some texts, heads in the model's order; `tokens`: how many were read."""

    scores: tuple[HeadScore, ...]
    texts: int
    tokens: int

    @property
    def kinds(self) -> tuple[str, ...]:
        """Those that the texts told anything of."""
        there = {one.kind for one in self.scores}
        return tuple(kind for kind in ALL_KINDS if kind in there)

    def best(self, kind: str, count: int | None = None) -> list[HeadScore]:
        """Scores of a kind, the farthest above its baseline first. Raises UsageError for a kind that there is not."""
        if kind not in ALL_KINDS:
            raise UsageError("kind", f"{kind!r} is unknown", f"wish one of {', '.join(ALL_KINDS)}")
        return sorted((one for one in self.scores if one.kind == kind), key=lambda one: -one.excess)[:count]

    def named(self, kind: str) -> list[HeadScore]:
        """The heads that may be called by a kind, best first.

        Each scores twice its baseline, three deviations above it, and is half as far above it as the best head.
        """
        found = self.best(kind)
        least = SHARE * found[0].excess if found else 0.0
        return [one for one in found if one.value >= TIMES * one.baseline and one.excess >= least
                and one.excess > DEVIATIONS * (one.deviation or 0.0)]  # fmt: skip

    def tree(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        keys = ("kind", "value", "baseline", "deviation", "queries", "offset")
        heads: dict[str, list[dict[str, Any]]] = {}
        for one in self.scores:
            heads.setdefault(one.name, []).append({key: getattr(one, key) for key in keys})
        named = {kind: [one.name for one in self.named(kind)] for kind in self.kinds}
        return {"texts": self.texts, "tokens": self.tokens, "named": named, "heads": heads}


@torch.no_grad()
def head_report(
    model: Any, readings: Reading | Iterable[Reading], *, layers: Names = None, heads: Names = None, rare: float = RARE
) -> HeadReport:
    """What each head looks at in some texts: the previous token, repeats, distances, delimiters, the first, rare tokens.

    The weights are summed up while the fast backend computes the texts, one after another: O(h T) memory, no map is kept.
    Induction and duplicates need what repeats: texts written twice (`attnlib.inspect.repeats.twice`) show them best.

    rare: the part of all tokens that counts as rare, by their number in these texts. Scores: `attnlib.inspect.head_scores`.
    Sources: Voita et al. 2019 (arXiv:1905.09418), Olsson et al. 2022 (arXiv:2209.11895), Xiao et al. 2023
    (arXiv:2309.17453).
    Raises UsageError without texts, for layers and heads that there are not, and for mixers without weights.
    """
    readings = [readings] if isinstance(readings, Reading) else list(readings)
    if not readings:
        raise UsageError("heads", "there is no text", "wish at least one")
    scoring, known = HeadScoring(), {name: _common(readings, name, rare) for name in ("source", "text")}
    with evaluating(model), record(model, weights=False, layers=layers, heads=heads, summaries=scoring):
        for reading in readings:
            scoring.text, scoring.source = (
                None if side is None else _marked(side, known[side.name], device_of(model))
                for side in (reading.text, reading.source)
            )
            model(*(torch.tensor([side.ids], device=device_of(model)) for side in reading.sides), head=False)
    found = [score for path, tally in scoring.tallies.items() for score in _scores(path, tally)]
    found.sort(key=lambda one: (list(scoring.tallies).index(one.path), one.head, ALL_KINDS.index(one.kind)))
    return HeadReport(tuple(found), len(readings), sum(len(side) for one in readings for side in one.sides))


def _common(readings: Sequence[Reading], name: str, rare: float) -> frozenset[int]:
    """The ids of a side that are not rare: all but the rarest, which make up at least the part `rare` of its tokens."""
    sides = [side for reading in readings for side in reading.sides if side.name == name]
    counts = Counter(side.ids[column] for side in sides for column in side.own if not _delimits(side, column))
    left, most = rare * sum(counts.values()), 0
    for count in sorted(counts.values()):
        if left <= 0:
            break
        left, most = left - count, count
    return frozenset(token for token, count in counts.items() if count > most)


def _marked(side: Side, common: frozenset[int], device: torch.device) -> Marked:
    delimiter = torch.tensor([_delimits(side, column) for column in range(len(side))])
    rare = torch.tensor([token not in common for token in side.ids]) & ~delimiter
    return Marked(*(x.to(device) for x in (torch.tensor(side.ids), delimiter, rare)))


def _delimits(side: Side, column: int) -> bool:
    """Whether a token is no word: one of the model's own, or punctuation, spaces and line ends alone."""
    span = side.spans[column]
    return span is None or all(unicodedata.category(c)[0] in "PZC" for c in side.text[slice(*span)])


def _scores(path: str, tally: Tally) -> list[HeadScore]:
    found = []
    for kind in KINDS:
        mass, mean, variance, count = tally.sums[kind]
        for place, head in enumerate(tally.heads):
            n = int(count[place])
            if n:
                value, baseline = float(mass[place]) / n, float(mean[place]) / n
                found.append(HeadScore(path, head, kind, value, baseline, float(variance[place]) ** 0.5 / n, n))
    weights, pairs, mean, variance = tally.far
    if not bool(pairs.any()):
        return found
    shuffled = (variance + mean.square()) / pairs.clamp(min=1)
    told, chance = ((x.sum(-1) / tally.squares) for x in (weights.square() / pairs.clamp(min=1), shuffled))
    offsets: Tensor = weights.argmax(-1) - weights.shape[-1] // 2
    for place, head in enumerate(tally.heads):
        count = int(pairs[place].sum())
        found.append(HeadScore(path, head, "positional", float(told[place]), float(chance[place]), None, count,
                               int(offsets[place])))  # fmt: skip
    return found
