"""A text as a model reads it: ids, their names, and where in the text each stands, by character and by word."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from attnlib.errors import LayoutError, UsageError
from attnlib.generate.prompts import check_ids, is_kind, start_of, vocab_of
from attnlib.models.heads import PooledHead

if TYPE_CHECKING:
    from attnlib.text.tokenizer import Tokenizer

Span = tuple[int, int]
_WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")


@dataclass(frozen=True)
class Word:
    """A word of a text: its characters [start, end) and the columns of the tokens that spell it."""

    text: str
    span: Span
    columns: tuple[int, ...]


@dataclass(frozen=True)
class Side:
    """One of the texts that a model reads.

    name:   "text", what the stack that writes (or the only one) reads, or "source", what an encoder reads before it.
    ids, tokens: the ids and their names.
    spans:  the characters [start, end) of `text` that each token stands for; None for what the tokenizer or the model
            added (CLS, a start id). Only tokens with a span are the user's words, to be taken away or put back.
    """

    name: str
    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    text: str
    spans: tuple[Span | None, ...]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def own(self) -> tuple[int, ...]:
        """The columns of the user's own tokens."""
        return tuple(column for column, span in enumerate(self.spans) if span is not None)

    @cached_property
    def words(self) -> tuple[Word, ...]:
        """The words that have tokens, in order; every own token belongs to exactly one."""
        spans = word_spans(self.text)
        columns: dict[int, list[int]] = {}
        for column in self.own:
            columns.setdefault(self._word_of(column, spans), []).append(column)
        if not spans:
            return (Word(self.text, (0, len(self.text)), self.own),) if self.own else ()
        ends = {at: spans[at][1] for at in columns}
        for at, found in columns.items():  # one token may hold several: `!"` is then a word
            reach, after = max((self.spans[column] or (0, 0))[1] for column in found), at + 1
            while after < len(spans) and after not in columns and spans[after][0] < reach:
                ends[at], after = spans[after][1], after + 1
        return tuple(
            Word(self.text[spans[at][0] : ends[at]], (spans[at][0], ends[at]), tuple(found))
            for at, found in sorted(columns.items())
        )

    def _word_of(self, column: int, spans: Sequence[Span]) -> int:
        """The number of the word that a token's first letter stands in; of a space alone, the word after it."""
        start, end = self.spans[column] or (0, 0)
        while start < end - 1 and self.text[start].isspace():
            start += 1
        return next((at for at, (_, stop) in enumerate(spans) if start < stop), max(len(spans) - 1, 0))


@dataclass(frozen=True)
class Reading:
    """What a model reads: `text`, and the `source` where it has an encoder and a decoder."""

    text: Side
    source: Side | None = None

    @property
    def sides(self) -> tuple[Side, ...]:
        """The source first, as it is read."""
        return (self.text,) if self.source is None else (self.source, self.text)

    def put(self, column: int, token: int, name: str) -> Reading:
        """The same reading with another token in a column of the text."""
        ids, tokens = list(self.text.ids), list(self.text.tokens)
        ids[column], tokens[column] = token, name
        return replace(self, text=replace(self.text, ids=tuple(ids), tokens=tuple(tokens)))


def word_spans(text: str) -> list[Span]:
    """Where the words and marks of a text stand; scripts written without spaces have a word a letter."""
    found: list[Span] = []
    for match in _WORD.finditer(text):
        start = match.start()
        for at in range(match.start(), match.end()):
            if _stands_alone(text[at]):
                found += [(start, at)] if start < at else []
                found.append((at, at + 1))
                start = at + 1
        found += [(start, match.end())] if start < match.end() else []
    return found


def _stands_alone(letter: str) -> bool:
    """Han and kana, which run on without spaces between words."""
    return ord(letter) >= 0x2E80 and unicodedata.name(letter, "").startswith(("CJK", "HIRAGANA", "KATAKANA"))


def side_of(name: str, ids: Sequence[int], tokenizer: Tokenizer | None = None) -> Side:
    """A side of bare ids: its text is their names with spaces between."""
    tokens = [f"#{i}" for i in ids] if tokenizer is None else tokenizer.tokens(ids)
    spans: list[Span | None] = []
    at = 0
    for token in tokens:
        spans.append((at, at + len(token)))
        at += len(token) + 1
    return Side(name, tuple(int(i) for i in ids), tuple(tokens), " ".join(tokens), tuple(spans))


def read(
    model: Any, ids: Sequence[int], source: Sequence[int] | None = None, *, tokenizer: Tokenizer | None = None
) -> Reading:
    """The reading of bare ids, checked against the model; an encoder-decoder has a source too.

    One whose head tells of the source reads that again: it needs no ids of its own.
    """
    both = is_kind(model, "encoder_decoder")
    if both != (source is not None):
        fact, wish = (
            ("is missing", "an encoder-decoder reads one") if both else ("is given", "only an encoder-decoder reads one")
        )
        raise UsageError("source", fact, wish)
    if source is None:
        return checked(model, Reading(side_of("text", ids, tokenizer)))
    other = side_of("source", source, tokenizer)
    text = side_of("text", ids, tokenizer) if ids or not model.rereads else _again(model, other, tokenizer)
    return checked(model, Reading(text, other))


def read_text(model: Any, tokenizer: Tokenizer, text: str) -> Reading:
    """The reading of a text, with what the tokenizer's template puts around it.

    Encoder: mask marks of the tokenizer ("[MASK]") written in the text are mask tokens. Encoder-decoder: the text is the
    source, ended as in training, and its decoder has read the start id.
    """
    before, after = tokenizer.template
    if (before, after) == ((), ()) and tokenizer.bos_id is not None and isinstance(model.head, PooledHead):
        before = (tokenizer.bos_id,)  # a first token to pool from, as classifiers are trained
    if is_kind(model, "encoder"):
        return checked(model, Reading(_framed("text", tokenizer, _marked(tokenizer, text), text, before, after)))
    found = tokenizer.offsets(text)
    if is_kind(model, "decoder"):
        return checked(model, Reading(_framed("text", tokenizer, found, text, before, ())))
    if not after and tokenizer.eos_id is not None:
        after = (tokenizer.eos_id,)
    source = _framed("source", tokenizer, found, text, before, after)
    if model.rereads:
        return checked(model, Reading(_again(model, source, tokenizer), source))
    start = start_of(model, tokenizer, None)
    begun = _framed("text", tokenizer, ([], []), "", () if start is None else (start,), ())
    return checked(model, Reading(begun, source))


def go_on(reading: Reading, tokenizer: Tokenizer | None, ids: Sequence[int]) -> Reading:
    """The reading with ids after its text: what the model wrote, or was given to have written."""
    if not ids:
        return reading
    side = reading.text
    if tokenizer is None:
        return replace(reading, text=side_of("text", [*side.ids, *ids]))
    text, spans = _spelled(tokenizer, side.ids, ids, len(side.text))
    names = tuple(tokenizer.tokens(ids))
    whole = Side("text", side.ids + tuple(ids), side.tokens + names, side.text + text, side.spans + tuple(spans))
    return replace(reading, text=whole)


def checked(model: Any, reading: Reading) -> Reading:
    """The reading as it came; an error that names the side where it does not fit the model."""
    if getattr(model, "features", None) is not None:
        raise UsageError("model", "reads features, not text", "explanations are of texts")
    for side in reading.sides:
        source = side.name == "source"
        empty = not side.own if (source or reading.source is None) else not side.ids
        if empty:
            raise UsageError(side.name, "is empty", "wish at least one token")
        limit = model.embedding.max_length if source else model.max_length
        if limit is not None and len(side) > limit:
            raise LayoutError(side.name, f"has {len(side)} tokens", f"the model's positions end at {limit}")
        check_ids([list(side.ids)], vocab_of(model, source=source), side.name)
    return reading


def _again(model: Any, source: Side, tokenizer: Tokenizer | None) -> Side:
    """The source as a decoder reads it again, one place to the right behind the start id."""
    start = 0 if model.spec is None else model.spec.decoder_start
    first = f"#{start}" if tokenizer is None else tokenizer.tokens([start])[0]
    ids, tokens, spans = source.ids[:-1], source.tokens[:-1], source.spans[:-1]
    return Side("text", (start, *ids), (first, *tokens), source.text, (None, *spans))


def _framed(
    name: str,
    tokenizer: Tokenizer,
    found: tuple[list[int], list[Span]],
    text: str,
    before: Sequence[int],
    after: Sequence[int],
) -> Side:
    ids = [*before, *found[0], *after]
    spans: list[Span | None] = [*(None for _ in before), *found[1], *(None for _ in after)]
    return Side(name, tuple(ids), tuple(tokenizer.tokens(ids)), text, tuple(spans))


def _marked(tokenizer: Tokenizer, text: str) -> tuple[list[int], list[Span]]:
    """Ids and spans of a text in which the tokenizer's mask mark stands for its mask token."""
    mark = "" if tokenizer.mask_id is None else tokenizer.special_names.get(tokenizer.mask_id, "")
    ids: list[int] = []
    spans: list[Span] = []
    at = 0
    for number, part in enumerate(text.split(mark) if mark else [text]):
        if number and tokenizer.mask_id is not None:
            ids.append(tokenizer.mask_id)
            spans.append((at, at + len(mark)))
            at += len(mark)
        found, places = tokenizer.offsets(part) if part else ([], [])
        ids += found
        spans += [(a + at, b + at) for a, b in places]
        at += len(part)
    return ids, spans


def _spelled(tokenizer: Tokenizer, before: Sequence[int], ids: Sequence[int], at: int) -> tuple[str, list[Span | None]]:
    """The text of ids after others and `at` characters, and the characters of each; parts of a letter share its span."""
    stream, text = tokenizer.stream(), ""
    stream.push(list(before))  # pieces are spelled by their left context
    spans: list[Span | None] = []
    waiting = 0
    for i in ids:
        if i in tokenizer.special_names:
            spans.append(None)
            continue
        piece = stream.push(i)
        spans.append((at + len(text), at + len(text)))
        waiting += 1
        if piece:
            spans = _settled(spans, waiting, (at + len(text), at + len(text) + len(piece)))
            text, waiting = text + piece, 0
    last = stream.finish()
    return text + last, _settled(spans, waiting, (at + len(text), at + len(text) + len(last))) if waiting else spans


def _settled(spans: list[Span | None], count: int, span: Span) -> list[Span | None]:
    """The last `count` spans that are some, all set to one."""
    done = list(spans)
    for place in reversed(range(len(done))):
        if count and done[place] is not None:
            done[place], count = span, count - 1
    return done
