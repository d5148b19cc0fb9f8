"""see: a model and a text in, a page of what attention did out; long texts in memory linear in their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from attnlib.errors import UsageError
from attnlib.generate.prompts import device_of, evaluating, is_kind
from attnlib.inspect.choice import Chosen, Names, choose, heads_of
from attnlib.inspect.exhibit import BYTE_CELLS, Exhibit, Map
from attnlib.inspect.explanations import Method, ask, why
from attnlib.inspect.figures import ASKED, figures_of_map, figures_of_summary
from attnlib.inspect.heads import head_report
from attnlib.inspect.maps import AttentionMap, place_of
from attnlib.inspect.page import Page
from attnlib.inspect.reading import Reading, Side, go_on, read_text
from attnlib.inspect.recording import Recording, record
from attnlib.inspect.steps import Steps, steps_of
from attnlib.inspect.summaries import Summaries, Summary, windows_within
from attnlib.inspect.tiled import SIDE, step_of, telling, tile_spans, tiled_map
from attnlib.models.heads import LMHead

if TYPE_CHECKING:
    from attnlib.inspect.explanations.result import Explanation
    from attnlib.text.tokenizer import Tokenizer

STEPS = 512  # of a text that was given, the chances of so many tokens at most
TILE_CELLS = 5 << 19  # cells of all tiles together: about a megabyte
TARGETS = 16  # of each query of the heads asked for
TOLD = 1 << 17  # targets that go along of heads that nobody asked for: half a megabyte


def see(
    model: Any,
    text: str,
    *,
    tokenizer: Tokenizer,
    write: int | None = None,
    written: str | None = None,
    layers: Names = None,
    exact: Sequence[str] = (),
    rows: Sequence[int] = (),
    methods: Sequence[str | Method] = (),
    about: str | None = None,
    name: str = "",
    title: str | None = None,
) -> Page:
    """A page of what the attention of a model did on a text (of an encoder-decoder: its source).

    write:   with how many tokens at most the model goes on; None = an encoder-decoder with 64, a decoder with none.
    written: what goes on after the text instead.
    layers:  which attentions, by number or path pattern; None = all.
    exact:   of a long text, the heads whose 16 largest targets of every query go along, such as "decoder.3.self.5"; by
             default some whose targets tell most of what they do, one of each kind of attention at least.
    rows:    of a long text, the queries whose weights go along in full: of the `exact` heads, or of all.
    methods: explanations that go along, of the answer that `about` names as `attnlib.inspect.target_names` says.

    Texts whose maps have more than 4 million cells are recorded as tiles, without the map; others get a head report too.
    Raises UsageError or LayoutError for a text that does not fit, for heads, rows and answers that there are not.
    """
    reading, first = read_on(model, tokenizer, text, write, written)
    chosen = choose(model, layers)
    with evaluating(model):
        asked = None if layers is None else [one.path for one in chosen]  # else what has no weights is left out
        maps, figures = _recorded(model, reading, chosen, asked, exact, rows)
        steps = _steps(model, reading, tokenizer, first)
        short = all(isinstance(one, AttentionMap) for one in maps)
        report = head_report(model, [reading], layers=[one.name for one in maps]) if short else None
    found = _explained(model, tokenizer, reading, first, methods, about)
    exhibit = Exhibit(tuple(maps), name, reading.sides, steps, found, figures, report)
    return Page((exhibit,), line_of(text) if title is None else title)


def sum_up(
    model: Any,
    text: str,
    *,
    tokenizer: Tokenizer,
    write: int | None = None,
    written: str | None = None,
    layers: Names = None,
    summaries: Summaries | None = None,
) -> list[tuple[Summary, Side, Side]]:
    """The summaries of a text's attention, each with the texts of its queries and keys, in memory linear in their tokens.

    The options are those of `see` and of `record`; by default windows of 1, 2, 4, .. as far as the text reaches.
    """
    reading, _ = read_on(model, tokenizer, text, write, written)
    summaries = summaries or Summaries(windows=windows_within(max(map(len, reading.sides))))
    with evaluating(model), record(model, layers=layers, weights=False, summaries=summaries) as seen:
        _forward(model, reading, head=False)
    return [(seen.summary(one.path), *sides_of(reading, one)) for one in choose(model, layers) if one.path in seen.summaries]


def line_of(text: str) -> str:
    """A text as a title."""
    line = " ".join(text.split())
    return line if len(line) <= 80 else line[:79] + "…"


def read_on(
    model: Any, tokenizer: Tokenizer, text: str, write: int | None = None, written: str | None = None
) -> tuple[Reading, int | None]:
    """What the model reads, and the first column of the text that was written, if any was."""
    reading = read_text(model, tokenizer, text)
    first = len(reading.text)
    if is_kind(model, "encoder") or not isinstance(model.head, LMHead):
        if write is not None or written is not None:
            raise UsageError("write", "is given", "this model writes nothing")
        return reading, None
    if written is not None:
        ids = tokenizer.encode(written)
    else:
        most = (0 if reading.source is None else 64) if write is None else write
        ids = _generated(model, tokenizer, reading, most)
    reading = go_on(reading, tokenizer, ids)
    return reading, first if ids else None


def _generated(model: Any, tokenizer: Tokenizer, reading: Reading, most: int) -> list[int]:
    from attnlib.generate import generate

    limit = model.max_length
    most = most if limit is None else min(most, limit - len(reading.text))
    if most < 1:
        return []
    prompts = [list((reading.source or reading.text).ids)]
    more: dict[str, Any] = {} if reading.source is None else {"decoder_prompts": [list(reading.text.ids)]}
    made = generate(model, prompts, max_new_tokens=most, tokenizer=tokenizer, **more)[0]
    return list(made.ids[:-1] if made.finish_reason == "eos" else made.ids)


def _forward(model: Any, reading: Reading, **more: Any) -> Any:
    rows = [torch.tensor([side.ids], device=device_of(model)) for side in reading.sides]
    with torch.inference_mode():
        return model(*rows, **more)


def sides_of(reading: Reading, one: Chosen) -> tuple[Side, Side]:
    """The texts of the queries and of the keys of an attention."""
    encoder = reading.source is not None and one.path.split(".")[0] == "encoder"
    queries = reading.source if encoder else reading.text
    keys = reading.source if reading.source is not None and (encoder or one.cross) else reading.text
    assert queries is not None and keys is not None
    return queries, keys


def _recorded(
    model: Any, reading: Reading, chosen: list[Chosen], asked: Names, exact: Sequence[str], rows: Sequence[int]
) -> tuple[list[Map], dict[str, Any]]:
    """The maps, dense or tiled, and the figures of their heads."""
    sizes = [(heads_of(one.mixer), *map(len, sides_of(reading, one))) for one in chosen]
    wished = {one.path: one.heads or () for one in choose(model, [one.path for one in chosen], exact)} if exact else {}
    longest = max(q for _, q, _ in sizes)
    if any(isinstance(row, bool) or not 0 <= row < longest for row in rows):
        raise UsageError("rows", f"are {list(rows)!r:.40}", f"must lie in 0..{longest - 1}")
    if sum(h * q * k for h, q, k in sizes) <= BYTE_CELLS:
        with record(model, layers=asked) as seen:
            _forward(model, reading, head=False)
        source = None if reading.source is None else reading.source.tokens
        maps = seen.maps(reading.text.tokens, source)
        return list(maps), {one.name: figures_of_map(one) for one in maps}
    return _tiled(model, reading, chosen, asked, wished, rows)


def _tiled(
    model: Any,
    reading: Reading,
    chosen: list[Chosen],
    layers: Names,
    exact: dict[str, tuple[int, ...]],
    rows: Sequence[int],
) -> tuple[list[Map], dict[str, Any]]:
    side = min(SIDE, int((TILE_CELLS / sum(heads_of(one.mixer) for one in chosen)) ** 0.5))
    step = {one.name: step_of(len(one), side) for one in reading.sides}
    spans = {one.name: tile_spans(len(one), step[one.name]) for one in reading.sides}
    summed = replace(ASKED, top=TARGETS, spans=spans["text"], source_spans=spans.get("source"))
    some = list(rows) or None
    with record(model, layers=layers, weights=some is not None, rows=some, summaries=summed) as seen:
        _forward(model, reading, head=False)
    here = [one for one in chosen if one.path in seen.summaries]
    summaries = {one.path: seen.summary(one.path) for one in here}
    kinds = len({place_of(path)[0] for path in summaries})
    longest = max(map(len, reading.sides))
    told = exact or telling([*summaries.values()], max(kinds, TOLD // (TARGETS * longest)))
    maps: list[Map] = []
    for one in here:
        q, k = sides_of(reading, one)
        full = _rows(seen, one.path) if rows and (one.path in exact or not exact) else {}
        steps, heads = (step[q.name], step[k.name]), told.get(one.path, ())
        maps.append(tiled_map(summaries[one.path], q.tokens, k.tokens, steps, exact=heads, rows=full))
    figures = {path: figures_of_summary(summary) for path, summary in summaries.items()}
    return maps, figures


def _rows(seen: Recording, path: str) -> dict[int, Any]:
    """Query -> [H, K] of the rows that were kept."""
    kept, found = seen[path].queries(), seen[path].dense().numpy()
    return {query: found[:, at] for at, query in enumerate(kept)}


def _steps(model: Any, reading: Reading, tokenizer: Tokenizer, written: int | None) -> Steps | None:
    """The chances of the tokens that were written; of a text given, of its last ones."""
    side = reading.text
    if is_kind(model, "encoder") or not isinstance(model.head, LMHead) or len(side) < 2:
        return None
    first = max(1, len(side) - STEPS) if written is None or reading.source is None else written
    if written is not None:
        first = max(min(first, written), 1)
    at = torch.zeros(1, len(side), dtype=torch.bool, device=device_of(model))
    at[:, first - 1 : -1] = True
    logits = _forward(model, reading, at=at).logits
    return steps_of(logits.reshape(-1, logits.shape[-1]), side.ids, side.tokens, first, tokenizer.tokens, written)


def _explained(
    model: Any, tokenizer: Tokenizer, reading: Reading, first: int | None, methods: Sequence[str | Method], about: str | None
) -> list[Explanation]:
    """What each method says of the answer asked about."""
    if not methods:
        if about is not None:
            raise UsageError("about", "is given", "there is no method to explain it", "methods=...")
        return []
    ids = reading.text.ids
    before = reading if first is None else replace(reading, text=_cut(reading.text, first))
    question = ask(model, before, about, tokenizer=tokenizer, written=[] if first is None else list(ids[first:]))
    return [why(question, method) for method in methods]


def _cut(side: Side, tokens: int) -> Side:
    """The first tokens of a side, and the text that they spell."""
    spans = side.spans[:tokens]
    end = max((span[1] for span in spans if span is not None), default=0)
    return Side(side.name, side.ids[:tokens], side.tokens[:tokens], side.text[:end], spans)
