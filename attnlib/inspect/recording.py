"""Recording: what every attention did, while the fast backend still computes the output."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from attnlib.attention.backends.protocol import AttentionCall
from attnlib.attention.scope import Door, standing_at_the_door
from attnlib.errors import UsageError
from attnlib.inspect.choice import Chosen, Names, choose, heads_of, unweighed
from attnlib.inspect.maps import AttentionMap
from attnlib.inspect.reduction import Reduced, Reduction
from attnlib.inspect.rows import Application, Block, Call, at_the_door, ranks, runs_of
from attnlib.inspect.seen import SeenWeights
from attnlib.inspect.sites import sites_named, stacks
from attnlib.inspect.summaries import SeenSummary, Summaries, Summary
from attnlib.layout import Layout

Rows = int | slice | Sequence[int] | None


@dataclass(eq=False)
class _Reading:
    """The text that an attention is at: how far each of its rows is, and where its keys stand."""

    chosen: Chosen
    lengths: list[int] = field(default_factory=list)
    keys: Layout | None = None

    def takes(self, q: Layout, k: Layout) -> bool:
        """Notes the new tokens; whether they begin another text, rather than go on with the one that caches hold."""
        self.keys = k
        if q.is_dense and q.start is not None:
            firsts, lasts = [q.start if q.tokens else -1] * q.batch, [q.start + q.tokens - 1] * q.batch
        else:
            held = ranks(q)
            lasts = held.max(1).values.tolist() if q.tokens else [-1] * q.batch
            firsts = torch.where(held < 0, held.max() + 1, held).min(1).values.tolist() if q.tokens else [-1] * q.batch
        begun = self.lengths
        again = len(begun) != q.batch or any(a == 0 and b >= 0 and n for a, b, n in zip(firsts, lasts, begun))
        before = [0] * q.batch if again else begun
        self.lengths = [max(n, last + 1) for n, last in zip(before, lasts)]
        return again


class Recording(Door):
    """What was seen: weights by the attention's path, activations by the site's name, of each text or call in order.

    weights:     path -> one SeenWeights a text; `seen[path]` is the last.
    summaries:   path -> one SeenSummary a text (or of another reduction); `seen.summary(path)` is one row of the last.
    activations: site -> one tensor a forward, as it was, detached.
    refused:     path -> why the weights of this attention are not to be had.
    """

    def __init__(
        self,
        chosen: list[Chosen],
        *,
        weights: bool,
        rows: Rows,
        dtype: torch.dtype,
        summaries: Reduction | None,
        source: bool,
    ) -> None:
        self.chosen = {one.path: one for one in chosen}
        self.weights: dict[str, list[SeenWeights]] = {}
        self.summaries: dict[str, list[Reduced]] = {}
        self.activations: dict[str, list[Tensor]] = {}
        self.refused: dict[str, str] = {}
        self._keep, self._rows, self._dtype = weights, _numbers(rows), dtype
        self._sum, self._source = summaries, source
        self._readings = {one.path: _Reading(one) for one in chosen}
        self._by_rule = {id(one.mixer.rule): one for one in chosen if one.softmax}

    def __getitem__(self, path: str) -> SeenWeights:
        """The weights of the last text that this attention saw."""
        if path not in self.weights:
            raise UsageError("record", f"{path!r} was not seen", f"wish one of {', '.join(self.weights) or 'none'}")
        return self.weights[path][-1]

    def summary(self, path: str, row: int = 0, segment: int | None = None) -> Summary:
        """The summary of the last text that this attention saw, of one row."""
        found = self.summaries[path][-1] if path in self.summaries else None
        if not isinstance(found, SeenSummary):
            raise UsageError("record", f"{path!r} was not summed up", f"wish one of {', '.join(self.summaries) or 'none'}")
        return found.of(row, segment)

    # -- taking -----------------------------------------------------------------------------------------------------

    def __call__(self, path: str, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall, run: Callable[[], Tensor]) -> Tensor:
        one = self._by_rule.get(id(call.rule))
        if one is None:
            return run()
        call.kept = []
        out = run()  # the output is the fast backend's own, bit for bit
        made, call.kept = call.kept[0].detach() if call.kept else None, None
        with torch.inference_mode(False), torch.no_grad():
            self._take(one, at_the_door(q, k, call, one.heads, own=not one.cross, made=made))
        return out

    def moved(self, rows: Tensor, layouts: Sequence[tuple[Layout, Layout]]) -> None:
        for reading in self._readings.values():
            for before, after in layouts:
                if reading.keys is before:
                    reading.keys, reading.lengths = after, [reading.lengths[row] for row in rows.tolist()]
                    self._select(reading.chosen.path, rows)
                    break

    def _select(self, path: str, rows: Tensor) -> None:
        if path in self.weights:
            self[path].select(rows)
        if path in self.summaries:
            self.summaries[path][-1].select(rows)

    def implied(self, one: Chosen, mixer: Any, args: tuple[Any, ...], given: dict[str, Any], out: Any) -> None:
        """A forward of a mixer that is no softmax attention: its own account of the weights."""
        if torch.compiler.is_compiling():
            return
        if given.get("cache") is not None:
            raise UsageError(one.path, "reads what a cache left of earlier tokens",
                             "its implied weights need the whole text in one forward")  # fmt: skip
        x, layout, scope = args
        memory, heads = given.get("memory"), one.heads or tuple(range(heads_of(mixer)))

        def make(rows: slice, keys: slice) -> Tensor:
            found: Tensor = mixer.implied_weights(x.detach(), layout, scope, rows=rows, memory=memory)
            return found[:, list(heads), :, keys]

        keys = layout if memory is None else memory.layout
        all_keys = slice(0, keys.tokens)
        seen = Application(layout, keys, len(heads), False, of=lambda _: make, hull=lambda _: all_keys,
                           parts=lambda _: (all_keys,), own=memory is None)  # fmt: skip

        with torch.inference_mode(False), torch.no_grad():
            self._take(one, seen)

    def _take(self, one: Chosen, seen: Application) -> None:
        if self._readings[one.path].takes(seen.q, seen.k):
            self._open(one, one.heads or tuple(range(seen.heads)), seen.q.batch)
        call, rows = Call.of(seen), None
        if self._rows is not None:
            rows = runs_of(torch.isin(call.q, torch.tensor(self._rows, dtype=torch.long)).any(0))
        made = None if self._sum is None else self.summaries[one.path][-1].begin(seen, replace(call))
        pieces: list[Block] = []
        together = rows is None  # else what is summed up is not what is kept
        for block in seen.blocks() if made is not None or together else ():
            if made is not None:
                made.add(block)
            if self._keep and together:
                self._cut(pieces, seen, block)
        for block in seen.blocks(rows) if self._keep and not together else ():
            self._cut(pieces, seen, block)
        if made is not None:
            self.summaries[one.path][-1].end(made)
        if self._keep:
            self[one.path].calls.append((call, pieces))

    def _cut(self, into: list[Block], seen: Application, block: Block) -> None:
        """Keep of a block what its rows can see."""
        begin = block.keys.start
        for part in seen.parts(block.rows):
            kept = block.weights[..., part.start - begin : part.stop - begin].to("cpu", self._dtype)
            kept = kept.clone() if kept.untyped_storage().nbytes() > kept.nbytes else kept
            into.append(Block(block.heads, block.rows, part, kept))

    def _open(self, one: Chosen, heads: tuple[int, ...], batch: int) -> None:
        """Another text."""
        if self._keep:
            self.weights.setdefault(one.path, []).append(SeenWeights(one.path, heads, self._rows))
        if self._sum is not None:
            new = self._sum.opened(one.path, heads, source=self._source, batch=batch)
            self.summaries.setdefault(one.path, []).append(new)

    # -- giving -----------------------------------------------------------------------------------------------------

    def maps(
        self,
        tokens: Sequence[str],
        source_tokens: Sequence[str] | None = None,
        *,
        row: int = 0,
        segment: int | None = None,
    ) -> list[AttentionMap]:
        """The last text of each attention, of one row, or one of the texts packed into it, with its tokens' names.

        `tokens` are those of the stack that writes (or the only one), `source_tokens` those of an encoder before it;
        pads are not among them.
        """
        if not self.weights:
            raise UsageError("record", "no attention was seen", f"run the model inside `record` of {', '.join(self.chosen)}")
        maps = []
        for path in self.weights:
            seen = self[path]
            stack, kind = path.split(".")[0], path.rpartition(".")[2]
            reads_source = source_tokens is not None
            queries = source_tokens if reads_source and stack == "encoder" else tokens
            keys = source_tokens if reads_source and (kind == "cross" or stack == "encoder") else tokens
            assert queries is not None and keys is not None
            kept = seen.queries(row, segment)
            if kept and kept[-1] >= len(queries):
                raise UsageError("tokens", f"{len(queries)} for {kept[-1] + 1} queries of {path}", "wish one each")
            names = [queries[number] for number in kept] if self._rows is not None else list(queries)
            maps.append(AttentionMap(path, seen.dense(row, segment).numpy(), names, list(keys), seen.heads))
        return maps


@contextmanager
def record(
    model: nn.Module,
    *,
    weights: bool = True,
    layers: Names = None,
    heads: Names = None,
    rows: Rows = None,
    activations: str | Sequence[str] | bool = (),
    summaries: Reduction | bool = False,
    dtype: torch.dtype = torch.float32,
) -> Iterator[Recording]:
    """Records what the attentions of a model do in this thread while open: `with record(model, layers=[0, 3]) as seen:`.

    The backend that is chosen without it computes the output, bit for bit. Weights that it makes whole are taken, others are
    recomputed beside it, a block of rows at a time, and only what the mask can see is kept: half a square of a causal mask,
    a band of a window.
    Memory: O(h * Q * K) for a causal attention of h heads, O(h * Q * window) for a local one, in `dtype` on the CPU.

    weights: of the attentions that `layers` (numbers or path patterns) and `heads` (numbers, or "decoder.3.self.5") name.
    rows: the queries whose weights are kept, by their number in the text: 7, [7, 9], slice(0, 32); None = all.
    summaries: what `attnlib.inspect.summaries` names, of all queries, in memory linear in the tokens; True = as by default,
        or another reduction.
    activations: names or patterns of `attnlib.inspect.sites`, as they pass; True = of all.
    A text that a cache takes in step by step is joined; rows follow their beams, those that leave a batch are let go.

    Raises UsageError for layers, heads, rows and sites that there are not, and for attention that has no weights.
    """
    chosen = choose(model, layers, heads)
    options = (Summaries() if summaries else None) if isinstance(summaries, bool | None) else summaries
    if options is not None and not isinstance(options, Reduction):
        raise UsageError("summaries", f"{options!r:.40}", "wish True, or what to sum up, such as Summaries(windows=(8, 64))")
    source = len(stacks(model)) > 1  # refuses blocks that read a text by segments, also without summaries
    seen = Recording(chosen, weights=weights, rows=rows, dtype=dtype, summaries=options, source=source)
    with ExitStack() as stack:
        for site in sites_named(model, "*" if activations is True else activations) if activations else ():
            stack.callback(site.attach(partial(_note, seen.activations, site.name)).remove)
        if weights or options is not None:
            for one in chosen:
                _admit(seen, one, stack, asked=layers is not None or heads is not None)
            if len(seen.refused) == len(chosen):
                path, reason = next(iter(seen.refused.items()))
                raise UsageError(path, reason, "nothing is left to record")
            stack.enter_context(standing_at_the_door(seen))
        yield seen


def _admit(seen: Recording, one: Chosen, stack: ExitStack, *, asked: bool) -> None:
    """Stand where the weights of an attention that is no softmax come out, or refuse it."""
    if one.softmax:
        return
    if not hasattr(one.mixer, "implied_weights"):
        seen.refused[one.path] = unweighed(one.mixer)
        if asked:
            raise UsageError(one.path, seen.refused[one.path], "wish attention that has weights")
        return
    stack.callback(one.mixer.register_forward_hook(partial(seen.implied, one), with_kwargs=True).remove)


def _note(into: dict[str, list[Tensor]], name: str, value: Tensor) -> None:
    into.setdefault(name, []).append(value.detach())


def _numbers(rows: Rows) -> tuple[int, ...] | None:
    """Which queries: as a sorted tuple."""
    if rows is None:
        return None
    if isinstance(rows, slice):
        if rows.stop is None or min(rows.start or 0, rows.stop) < 0:
            raise UsageError("rows", f"are {rows}", "wish a slice with an end, counted from the first token")
        return tuple(range(rows.start or 0, rows.stop, rows.step or 1))
    listed = [rows] if isinstance(rows, int) else list(rows)
    if not listed or any(isinstance(row, bool) or not isinstance(row, int) or row < 0 for row in listed):
        raise UsageError("rows", f"are {rows!r:.40}", "wish numbers of queries, from 0")
    return tuple(sorted(set(listed)))
