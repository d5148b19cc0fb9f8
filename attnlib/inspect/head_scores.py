"""What a head looks at, summed up while its weights pass: the previous token, repeats, delimiters, distances.

Of each query that sees both a target and another key, the mass on its targets; a score is its mean over such queries.

    previous    the token just before                     induction   tokens that followed an earlier token like this one
    duplicate   earlier tokens like this one              delimiter   punctuation, line ends, tokens of the model's own
    first       the first token, where sinks are          rare        the rarest tokens of the texts

A baseline says what the score would be were the keys that a query sees shuffled among their places: of N keys with sum S
and sum of squares S2, m of them targets, the mean is m S / N and the variance m (N - m) / (N - 1) (S2 / N - (S / N)^2).

`positional` is the share of sum w^2 that the mean weight at each distance explains, sum_d n_d mean_d^2 / sum w^2: 1 of a
head that looks at distances alone; its baseline is the same of shuffled keys.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import pad

from attnlib.errors import UsageError
from attnlib.inspect.reduction import Reduced, Reduction
from attnlib.inspect.rows import Application, Block, Call

KINDS = ("previous", "induction", "duplicate", "delimiter", "first", "rare")
ALL_KINDS = (*KINDS[:3], "positional", *KINDS[3:])


@dataclass(frozen=True, eq=False)
class Marked:
    """One text of a stack: ids [T], and which of its tokens are delimiters and which are rare, bool [T]."""

    ids: Tensor
    delimiter: Tensor
    rare: Tensor


@dataclass(eq=False)
class Tally:
    """The sums of one attention over all texts: by kind [4, h] of mass, baseline, variance and queries; by distance."""

    heads: tuple[int, ...]
    sums: dict[str, Tensor] = field(default_factory=dict)
    squares: Tensor = field(default_factory=lambda: torch.zeros(0))  # [h] sum of w^2
    far: Tensor = field(default_factory=lambda: torch.zeros(0))  # [4, h, 2 T - 1]: w, pairs, shuffled mean, its variance

    def __post_init__(self) -> None:
        count = len(self.heads)
        self.sums = {kind: torch.zeros(4, count, dtype=torch.float64) for kind in KINDS}
        self.squares, self.far = torch.zeros(count, dtype=torch.float64), torch.zeros(4, count, 1, dtype=torch.float64)

    def widen(self, tokens: int) -> None:
        """Room for the distances of a text of so many tokens."""
        more = tokens - 1 - self.far.shape[-1] // 2
        self.far = pad(self.far, (more, more)) if more > 0 else self.far


class HeadScoring(Reduction):
    """Scores of every attention, one text after another: set `text` (and `source`) before each forward."""

    def __init__(self) -> None:
        self.tallies: dict[str, Tally] = {}
        self.text: Marked | None = None
        self.source: Marked | None = None

    def opened(self, path: str, heads: tuple[int, ...], *, source: bool, batch: int) -> Reduced:
        if batch != 1:
            raise UsageError("heads", f"are scored on {batch} rows at once", "wish one text a forward")
        stack, kind = path.split(".")[0], path.rpartition(".")[2]
        q = self.source if source and stack == "encoder" else self.text
        k = self.source if source and (stack == "encoder" or kind == "cross") else self.text
        assert q is not None and k is not None
        return _Seen(self.tallies.setdefault(path, Tally(heads)), q, k)


@dataclass(eq=False)
class _Seen(Reduced):
    tally: Tally
    q: Marked
    k: Marked

    def begin(self, seen: Application, call: Call) -> _Scoring:
        if seen.own:
            self.tally.widen(seen.q.tokens)
        return _Scoring(self.tally, self.q, self.k, seen)

    def end(self, made: _Scoring) -> None:
        """The tally has it all."""


class _Scoring:
    """One call on its way into a tally."""

    def __init__(self, tally: Tally, q: Marked, k: Marked, seen: Application) -> None:
        self.tally, self.q, self.k, self.seen = tally, q, k, seen
        self.before = torch.cat([k.ids.new_full((1,), -1), k.ids[:-1]])  # the token before each key
        first = torch.zeros(len(k.ids), dtype=torch.bool)
        first[:1] = True
        self.columns = {"delimiter": k.delimiter & ~first, "first": first, "rare": k.rare & ~first}

    def add(self, block: Block) -> None:
        heads, rows, keys, weights = block
        w = weights[0]  # [h, R, N]
        seen = None if self.seen.sees is None else self.seen.sees(heads, rows, keys)
        known = w != 0 if self.seen.sees is None else w.new_ones(1, *w.shape[1:]).bool() if seen is None else seen[0]
        count = known.sum(-1, dtype=torch.float64)  # [h|1, R] keys seen
        total, square = w.sum(-1).double(), torch.linalg.vecdot(w, w).double()
        mean = total / count.clamp(min=1)
        variance = (square / count.clamp(min=1) - mean * mean).clamp(min=0.0)
        for kind, chosen in self._targets(rows, keys):
            mass = torch.linalg.vecdot(w, chosen.to(w)).double()
            many = (chosen & known).sum(-1, dtype=torch.float64)  # [h|1, R]
            told = (many > 0) & (many < count)
            spread = many * (count - many) / (count - 1).clamp(min=1) * variance
            found = torch.stack([x.broadcast_to(mass.shape) for x in (mass, many * mean, spread, torch.ones_like(mass))])
            self.tally.sums[kind][:, heads] += (found * told).sum(-1).cpu()
        if self.seen.own:
            self.tally.squares[heads] += square.sum(-1).cpu()
            self._distances(block, known, mean, variance)

    def _targets(self, rows: slice, keys: slice) -> list[tuple[str, Tensor]]:
        """Of each kind its targets among the keys, bool [R|1, N]; earlier ones only, where both stand in one text."""
        own, device = self.seen.own, self.k.ids.device
        q, k = (torch.arange(part.start, part.stop, device=device) for part in (rows, keys))
        q = q[:, None]
        ids = self.q.ids[rows, None]
        found = [("induction", self.before[keys] == ids), ("duplicate", self.k.ids[keys] == ids)]
        if own:
            found = [(kind, same & (k < q)) for kind, same in found] + [("previous", k == q - 1)]
        return found + [(kind, columns[None, keys]) for kind, columns in self.columns.items()]

    def _distances(self, block: Block, known: Tensor, mean: Tensor, variance: Tensor) -> None:
        heads, rows, keys, weights = block
        tilted = skewed(known.to(torch.float32)).double()  # [h|1, R, R + N - 1]
        parts = [skewed(weights[0]).sum(-2).double(), tilted.sum(-2),
                 *((x[:, None] @ tilted)[:, 0] for x in (mean, variance))]  # fmt: skip
        shape, first = parts[0].shape, rows.start - keys.stop + 1  # the least distance
        found = torch.stack([part.broadcast_to(shape) for part in parts]).flip(-1).cpu()
        middle = self.tally.far.shape[-1] // 2
        self.tally.far[:, heads, middle + first : middle + first + shape[-1]] += found


def skewed(x: Tensor) -> Tensor:
    """[.., R, N] -> [.., R, R + N - 1], row r moved to the right by R - 1 - r: a column is a diagonal of x."""
    rows, columns = x.shape[-2:]
    width = rows + columns - 1
    laid = pad(pad(x, (rows - 1, 0)).flatten(-2), (0, rows))  # zeros before each row, and room after the last
    return laid.as_strided((*x.shape[:-1], width), (*laid.stride()[:-1], width + 1, 1))
