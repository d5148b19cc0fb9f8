"""Summaries of attention without its map: made a block of query rows at a time, in memory linear in the tokens.

Of the weights w[q, k] of a head:

    received[k]   sum over q           given[q]    sum over k (1, or less where a sink or nothing seen takes a share)
    entropy[q]    -sum w ln w, nats    distance[q] sum w |q - k| / given[q], in tokens
    top[q]        the largest weights and their keys
    sink[q]       mass on the first tokens of the text
    outside[n]    mass on keys farther than n tokens, mean and greatest over q: what a window of n would lose
    flow[s, t]    sum over q in span s and k in span t
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import pad

from attnlib.errors import UsageError
from attnlib.inspect.reduction import Reduced, Reduction
from attnlib.inspect.rows import Application, Call, held
from attnlib.inspect.summing import Summing

Spans = Sequence[int] | None


@dataclass(frozen=True)
class Summaries(Reduction):
    """What to sum up: the `top` targets of each query, mass outside `windows`, mass on the first `sinks` tokens.

    spans: of each token of the text the number of its span (a sentence, a field, a speaker), -1 = of none;
    source_spans: the same of an encoder's text. Without spans there is no flow.
    """

    top: int = 16
    windows: tuple[int, ...] = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
    sinks: int = 4
    spans: Spans = None
    source_spans: Spans = None

    def __post_init__(self) -> None:
        given = [("top", (self.top,), 0), ("sinks", (self.sinks,), 0), ("windows", self.windows, 0),
                 ("spans", self.spans or (), -1), ("source_spans", self.source_spans or (), -1)]  # fmt: skip
        for name, numbers, least in given:
            if any(isinstance(n, bool) or not isinstance(n, int) or n < least for n in numbers):
                raise UsageError(name, f"{getattr(self, name)!r:.40}", f"wish whole numbers from {least}")

    def opened(self, path: str, heads: tuple[int, ...], *, source: bool, batch: int) -> SeenSummary:
        return SeenSummary(path, heads, self, sides(self, path, source), batch)


def windows_within(count: int) -> tuple[int, ...]:
    """1, 2, 4, .. less than a text of so many tokens is long."""
    return tuple(1 << n for n in range((max(count, 2) - 2).bit_length() or 1))


@dataclass(frozen=True, eq=False)
class Summary:
    """The summary of one attention over one text: h heads, Q queries, K keys, float32 but for numbers of keys.

    distance and outside are None for cross-attention, whose queries and keys stand in different texts.
    outside, outside_most: [h, W] beside the `windows` that they are of.
    """

    path: str
    heads: tuple[int, ...]
    received: Tensor  # [h, K]
    given: Tensor  # [h, Q]
    entropy: Tensor  # [h, Q]
    sink: Tensor  # [h, Q]
    top_keys: Tensor  # [h, Q, top], -1 where there are fewer
    top_weights: Tensor  # [h, Q, top]
    distance: Tensor | None  # [h, Q]
    windows: tuple[int, ...]
    outside: Tensor | None  # [h, W]
    outside_most: Tensor | None  # [h, W]
    flow: Tensor | None  # [h, S, S']


@dataclass(eq=False)
class SeenSummary(Reduced):
    """The summary of one attention over one text while it grows, of all rows of the batch."""

    path: str
    heads: tuple[int, ...]
    options: Summaries
    sides: tuple[Spans, Spans]  # spans of the queries and of the keys
    batch: int
    calls: list[tuple[Call, dict[str, Tensor]]] = field(default_factory=list)
    received: Tensor = field(default_factory=lambda: torch.zeros(0))  # [B, h, K or more] float64
    sums: dict[str, Tensor] = field(default_factory=dict)  # [B, h, ...] float64
    queries: Tensor = field(default_factory=lambda: torch.zeros(0))  # [B] how many

    def begin(self, seen: Application, call: Call) -> Summing:
        """One call, to hand the blocks to."""
        q, k = self.sides
        spans = None if q is None or k is None else (q, k)
        return Summing(seen, call, top=self.options.top, windows=self.options.windows, sinks=self.options.sinks, spans=spans)

    def end(self, made: Summing) -> None:
        """All blocks of the call were handed over."""
        call = made.call
        room = max(int(call.k.max()) + 1 if call.k.numel() else 0, self.received.shape[-1])
        if not self.calls:
            self.received, self.queries = made.received(room), (call.q >= 0).sum(1)
            self.sums = made.sums
        else:
            if room > self.received.shape[2]:  # doubled, so that a step does not copy what all earlier ones left
                self.received = pad(self.received, (0, max(room, 2 * self.received.shape[2]) - self.received.shape[2]))
            self.received += made.received(self.received.shape[2])
            self.queries = self.queries + (call.q >= 0).sum(1)
            for name, value in made.sums.items():
                self.sums[name] = torch.maximum(self.sums[name], value) if name.endswith("most") else self.sums[name] + value
        self.calls.append((call, made.values))

    def select(self, rows: Tensor) -> None:
        """Other rows stand for the text from here on, as beams do."""
        rows = rows.cpu()
        for call, _ in self.calls:
            call.select(rows)
        self.received, self.queries, self.batch = self.received[rows], self.queries[rows], len(rows)
        self.sums = {name: value[rows] for name, value in self.sums.items()}

    def of(self, row: int = 0, segment: int | None = None) -> Summary:
        """The summary of one row; of a text packed into it, what is said of single tokens is of that text alone."""
        calls = [call for call, _ in self.calls]
        q, k = (held(calls, self.path, side, row, segment) for side in ("q", "k"))
        found = {name: self._joined(name, row, q) for name in self.calls[0][1]}
        sums = {name: value[row].float() for name, value in self.sums.items()}
        top = torch.where(found["top_weights"] > 0, found["top_keys"] - (k[0] if len(k) else 0), -1)
        outside = sums["outside"] / max(int(self.queries[row]), 1) if "outside" in sums else None
        return Summary(
            self.path, self.heads, self.received[row][:, k].float(), found["given"], found["entropy"], found["sink"],
            top, found["top_weights"], found.get("distance"), self.options.windows, outside, sums.get("outside_most"),
            sums.get("flow"),
        )  # fmt: skip

    def _joined(self, name: str, row: int, places: Tensor) -> Tensor:
        """[h, Q, ...] of the queries at `places`, of all calls."""
        values = [found[name] for _, found in self.calls]
        widest = max(values, key=lambda value: value.shape[-1] if value.dim() == 4 else 0)
        size = int(places[-1]) + 1 if len(places) else 0
        out = widest.new_zeros(widest.shape[1], size, *widest.shape[3:])
        for (call, _), value in zip(self.calls, values):
            at = call.row(row)
            real = (call.q[at] >= 0) & (call.q[at] < size)
            more = value[at][:, real]
            if more.dim() == 3:
                out[:, call.q[at][real], : more.shape[-1]] = more
            else:
                out[:, call.q[at][real]] = more
        return out[:, places]


def sides(options: Summaries, path: str, source: bool) -> tuple[Spans, Spans]:
    """The spans of the queries and of the keys of an attention; source: whether an encoder stands before the stack."""
    if not source:
        return options.spans, options.spans
    stack, kind = path.split(".")[0], path.rpartition(".")[2]
    queries = options.source_spans if stack == "encoder" else options.spans
    return queries, options.source_spans if stack == "encoder" or kind == "cross" else options.spans
