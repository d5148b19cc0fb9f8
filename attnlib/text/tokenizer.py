"""The door to text: one protocol for every tokenizer, and the slot their specs stand in."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from attnlib.errors import UsageError
from attnlib.spec import Spec
from attnlib.text.chat import SPELT, ChatTemplate, Messages

Ids = np.ndarray[Any, np.dtype[np.int64]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]


class TokenizerSpec(Spec, slot="tokenizer", default="bytes"):
    """Which tokenizer; `build` makes it."""

    def build(self, base: str | Path | None = None, texts: Iterable[str] | None = None) -> Tokenizer:
        """The tokenizer. `base`: folder that relative paths start from; `texts`: what a vocabulary is trained on."""
        raise NotImplementedError

    def learns(self) -> bool:
        """Whether the vocabulary is made from the training text."""
        return False


class Frame(NamedTuple):
    """What stands before, between and after two texts, and the type id of each of the five parts."""

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    types: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0)


class Framed(NamedTuple):
    """Ids and type ids of one or two texts as their model reads them, and the columns that each text has."""

    ids: list[int]
    types: list[int]
    first: range
    second: range


class Tokenizer(ABC):
    """Text to ids and back. User text never yields a special id: those are added here, by name, and nowhere else.

    vocab_size:  ids are 0 .. vocab_size-1.
    pad_id ...:  special ids, None where the vocabulary has none.
    sentinels:   ids that stand for removed spans, in the order they are used.
    special_names: every special id and how it is written.
    template:    ids that the tokenizer's own model expects before and after a text, e.g. ((CLS,), (SEP,)).
    chat_template: how talks are written, where the folder says it.
    """

    vocab_size: int
    pad_id: int | None = None
    bos_id: int | None = None
    eos_id: int | None = None
    sep_id: int | None = None
    mask_id: int | None = None
    unk_id: int | None = None
    sentinels: tuple[int, ...] = ()
    special_names: Mapping[int, str] = MappingProxyType({})
    template: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    chat_template: ChatTemplate | None = None

    @abstractmethod
    def offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids of the text and, for each, the span of characters (start, end) it comes from."""

    @abstractmethod
    def decode(self, ids: Iterable[int], *, special: bool = False) -> str:
        """Text of the ids; special ids are left out unless `special`, which writes them by name."""

    @abstractmethod
    def tokens(self, ids: Iterable[int]) -> list[str]:
        """One readable string an id: spaces as ▁, line ends as ⏎, special ids by name."""

    @abstractmethod
    def save(self, folder: str | Path) -> TokenizerSpec:
        """Writes what is needed into `folder` and returns the spec that builds this tokenizer with `base=folder`."""

    def pieces(self, text: str) -> Ids:
        """Ids of the text alone, as an array: [tokens] int64."""
        return np.asarray(self.offsets(text)[0], dtype=np.int64)

    def encode(self, text: str, *, bos: bool = False, eos: bool = False, template: bool = False) -> list[int]:
        """Ids of the text; with `bos`, `eos`, or the tokenizer's own `template` around it."""
        before, after = self.template if template else ((), ())
        first = (self.need("bos"),) if bos else ()
        last = (self.need("eos"),) if eos else ()
        return [*first, *before, *self.pieces(text).tolist(), *after, *last]

    @property
    def opens(self) -> bool:
        """Whether bos goes before a text that is read as a whole: where no template gives it a token to pool from."""
        return self.template == ((), ()) and self.bos_id is not None

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text alone."""
        return [self.pieces(text).tolist() for text in texts]

    def encode_blanks(self, text: str) -> list[int]:
        """Ids of a text in which the name of the mask token stands for a blank; other special names are text."""
        mask = self.need("mask")
        ids: list[int] = []
        for number, part in enumerate(text.split(self.special_names[mask])):
            ids += [*([mask] if number else []), *self.pieces(part).tolist()]
        return ids

    def encode_spelt(self, text: str) -> list[int]:
        """Ids of a text in which a special token is its name behind U+FDD0; a bare name is text, as everywhere."""
        names = {SPELT + name: i for i, name in self.special_names.items()}
        if not names:
            return self.pieces(text).tolist()  # type: ignore[no-any-return]
        pattern = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
        parts = re.split(f"({pattern})", text)
        return [i for part in parts if part for i in ([names[part]] if part in names else self.pieces(part).tolist())]

    def chat(self, messages: Messages, **options: Any) -> list[int]:
        """Ids of a talk by the folder's chat template, ready for an answer; `options` as `ChatTemplate.render` has them.

        UsageError where the tokenizer came with no template, or it refuses the messages.
        """
        if self.chat_template is None:
            raise UsageError("tokenizer", "has no chat template", "wish a folder with chat_template.jinja",
                             "a plain text needs none: attnlib generate")  # fmt: skip
        return self.encode_spelt(self.chat_template.spelt(messages, set(self.special_names.values()), **options))

    @cached_property
    def pair(self) -> Frame:
        """What the tokenizer's own model expects around two texts."""
        return Frame(self.template[0], (self.need("sep"),), self.template[1])

    def join(self, first: Sequence[int], second: Sequence[int] | None = None) -> Framed:
        """Ids of one text inside the template, or of two inside the frame of a pair."""
        before, between, after, kinds = (self.template[0], (), self.template[1], (0,) * 5) if second is None else self.pair
        parts = (before, first, between, second or (), after)
        ids = [i for part in parts for i in part]
        types = [kind for part, kind in zip(parts, kinds) for _ in part]
        a, b = len(before), len(before) + len(first) + len(between)
        return Framed(ids, types, range(a, a + len(first)), range(b, b + len(second or ())))

    def source(self, text: str, template: tuple[tuple[int, ...], tuple[int, ...]] | None = None) -> list[int]:
        """A text as an encoder-decoder reads it: inside a template (None = the tokenizer's own), ended by eos, once."""
        before, after = self.template if template is None else template
        ids = [*before, *self.pieces(text).tolist(), *after]
        ended = self.eos_id is None or self.eos_id in (*after, *ids[-1:])
        return ids if ended else [*ids, self.need("eos")]

    def special(self, name: str) -> int | None:
        """The id of a special token by its name."""
        return next((i for i, known in self.special_names.items() if known == name), None)

    def named(self, pattern: re.Pattern[str]) -> dict[str, int]:
        """The special tokens whose whole name is of a pattern, with their ids."""
        return {name: i for i, name in self.special_names.items() if pattern.fullmatch(name)}

    def stream(self) -> StreamDecoder:
        """A decoder for ids that arrive one by one."""
        return StreamDecoder(self)

    def need(self, role: str) -> int:
        """The special id of a role (pad, bos, eos, sep, mask), or an error that says what is missing."""
        found: int | None = getattr(self, f"{role}_id")
        if found is None:
            raise UsageError("tokenizer", f"has no {role} token", f"one with a {role} token is needed here",
                             f"name it: tokenizer: {{{role}: '...'}}, or use {{kind: bytes}}")  # fmt: skip
        return found

    def add_specials(self, first: int, roles: Sequence[str], sentinels: int) -> None:
        """Gives the ids from `first` on to the roles, then to the sentinels: they follow a vocabulary's own pieces."""
        for i, role in enumerate(roles, first):
            setattr(self, f"{role}_id", i)
        after = first + len(roles)
        self.vocab_size = after + sentinels
        self.sentinels = tuple(range(after, self.vocab_size))
        names = [*roles, *(f"extra_{i}" for i in range(sentinels))]
        self.special_names = {i: f"<{name}>" for i, name in enumerate(names, first)}

    @cached_property
    def ordinary(self) -> Flags:
        """Which ids are no special ids: [vocab] bool."""
        flags = np.ones(self.vocab_size, dtype=bool)
        flags[list(self.special_names)] = False
        return flags

    @cached_property
    def edges(self) -> tuple[Flags, Flags]:
        """`word_edges`, computed once."""
        return self.word_edges()

    def word_edges(self) -> tuple[Flags, Flags]:
        """For every id, whether it can continue a word to its left, and whether it can be continued: two [vocab] bool.

        Tokens i and i+1 belong to one word when `continued[i]` and `continues[i+1]`: letters, digits and apostrophes
        run on; spaces, punctuation and special ids end a word.
        """
        names = self.tokens(range(self.vocab_size))
        continues = np.array([bool(name) and in_word(name[0]) for name in names])
        continued = np.array([bool(name) and in_word(name[-1]) for name in names])
        return continues & self.ordinary, continued & self.ordinary


class StreamDecoder:
    """Text of ids that arrive one by one; never half a code point.

    All that `push` and `finish` return, joined, is what `decode` makes of all the ids. Text that may still change
    (an unfinished code point decodes to U+FFFD) is held back until it is settled.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []  # from a few tokens before what is pending: pieces are spelled by their left context
        self._read = 0  # ids of these whose text has been given out

    def push(self, ids: int | Sequence[int]) -> str:
        """Text that is settled after these ids; empty while a code point is unfinished."""
        new = [ids] if isinstance(ids, int) else list(ids)
        self._ids += [i for i in new if i not in self._tokenizer.special_names]
        text = self._pending()
        if not text or text.endswith("�"):
            return ""
        return self._give(text)

    def finish(self) -> str:
        """What was held back, unfinished code points as U+FFFD; the decoder starts afresh."""
        text = self._pending()
        self._ids, self._read = [], 0
        return text

    def _pending(self) -> str:
        given = self._tokenizer.decode(self._ids[: self._read])
        return self._tokenizer.decode(self._ids)[len(given) :]

    def _give(self, text: str) -> str:
        self._ids = self._ids[self._read :]
        self._read = len(self._ids)
        return text


def in_word(character: str) -> bool:
    """Whether a character is inside a word: letters, digits, apostrophe, or a part of one (U+FFFD)."""
    return character.isalnum() or character in "'’�" or (ord(character) >= 0x300 and character.isidentifier())


def readable(text: str) -> str:
    """A piece for people's eyes: spaces as ▁, line ends as ⏎, tabs as ⇥, other unprintable characters escaped."""
    marks = {" ": "▁", "\n": "⏎", "\t": "⇥"}
    return "".join(marks.get(c, c if c.isprintable() else c.encode("unicode_escape").decode()) for c in text)
