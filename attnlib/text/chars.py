"""Characters as tokens, the alphabet taken from the training text."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from attnlib.errors import DataError
from attnlib.text.files import find_data, read_text
from attnlib.text.tokenizer import Tokenizer, TokenizerSpec, readable


class Chars(TokenizerSpec, kind="chars"):
    """The characters of the training text in order of code point, then pad, bos, eos, sep, mask, unk, sentinels.

    path:    an alphabet written by `save`; without one it is taken from the training text.
    unknown: what a character outside of the alphabet does: refuse the text, or become `unk`.
    """

    path: str | None = None
    unknown: Literal["refuse", "unk"] = "refuse"
    sentinels: Annotated[int, Field(ge=0, le=10_000)] = 32

    def build(self, base: str | Path | None = None, texts: Iterable[str] | None = None) -> CharTokenizer:
        if self.path is not None:
            alphabet = _read_alphabet(find_data(self.path, base))
        elif texts is not None:
            alphabet = "".join(sorted(set().union(*texts)))
        else:
            raise DataError("tokenizer.path", "is not given and there is no training text", "chars needs one of both")
        return CharTokenizer(alphabet, unknown=self.unknown, sentinels=self.sentinels)

    def learns(self) -> bool:
        return self.path is None


class CharTokenizer(Tokenizer):
    """One id a character. `decode(encode(text)) == text` for text within the alphabet."""

    def __init__(self, alphabet: str, *, unknown: Literal["refuse", "unk"] = "refuse", sentinels: int = 32) -> None:
        if not alphabet or len(set(alphabet)) != len(alphabet):
            raise DataError("tokenizer.alphabet", "is empty or repeats a character", "must name each character once")
        n = len(alphabet)
        self.alphabet, self.unknown = alphabet, unknown
        self._ids = {c: i for i, c in enumerate(alphabet)}
        self.add_specials(n, ("pad", "bos", "eos", "sep", "mask", "unk"), sentinels)

    def offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        if self.unknown == "refuse":
            strange = next((i for i, c in enumerate(text) if c not in self._ids), None)
            if strange is not None:
                raise DataError(f"text, character {strange + 1}", f"{text[strange]!r} is not in the alphabet",
                                "must be a character of the training text",
                                "tokenizer: {kind: chars, unknown: unk}, or {kind: bytes}")  # fmt: skip
        assert self.unk_id is not None
        return [self._ids.get(c, self.unk_id) for c in text], [(i, i + 1) for i in range(len(text))]

    def decode(self, ids: Iterable[int], *, special: bool = False) -> str:
        return "".join(self._text(int(i), special) for i in ids)

    def tokens(self, ids: Iterable[int]) -> list[str]:
        return [readable(self._text(int(i), True)) for i in ids]

    def save(self, folder: str | Path) -> TokenizerSpec:
        document = {"format": 1, "alphabet": self.alphabet}
        (Path(folder) / "alphabet.json").write_text(json.dumps(document) + "\n", encoding="utf-8")
        return Chars(path="alphabet.json", unknown=self.unknown, sentinels=len(self.sentinels))

    def _text(self, i: int, special: bool) -> str:
        n = len(self.alphabet)
        if i < n:
            return self.alphabet[i]
        if special:
            return self.special_names[i]
        return "�" if i == self.unk_id else ""


def _read_alphabet(path: Path) -> str:
    try:
        return str(json.loads(read_text(path))["alphabet"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(str(path), "holds no alphabet", "must be a JSON object with the key 'alphabet'") from error
