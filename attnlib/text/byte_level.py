"""Bytes as tokens: no vocabulary to train, no dependency, any text."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from attnlib.text.tokenizer import Flags, Ids, StreamDecoder, Tokenizer, TokenizerSpec, in_word, readable


class Bytes(TokenizerSpec, kind="bytes"):
    """The UTF-8 bytes of the text: ids 0..255 are the bytes, 256..260 pad, bos, eos, sep, mask, then the sentinels."""

    sentinels: Annotated[int, Field(ge=0, le=10_000)] = 32

    def build(self, base: str | Path | None = None, texts: Iterable[str] | None = None) -> ByteTokenizer:
        return ByteTokenizer(sentinels=self.sentinels)


class ByteTokenizer(Tokenizer):
    """UTF-8 bytes and special ids after them. `decode(encode(text)) == text` for every text without lone surrogates.

    Text that UTF-8 cannot hold (a lone surrogate) is encoded as "?"; ids that are no UTF-8 decode to U+FFFD.
    """

    def __init__(self, *, sentinels: int = 32) -> None:
        self.add_specials(256, ("pad", "bos", "eos", "sep", "mask"), sentinels)

    def pieces(self, text: str) -> Ids:
        return np.frombuffer(text.encode("utf-8", "replace"), dtype=np.uint8).astype(np.int64)

    def offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        spans = [(i, i + 1) for i, c in enumerate(text) for _ in c.encode("utf-8", "replace")]
        return self.pieces(text).tolist(), spans

    def decode(self, ids: Iterable[int], *, special: bool = False) -> str:
        data = b"".join(self._bytes(int(i), special) for i in ids)
        return data.decode("utf-8", "replace")

    def tokens(self, ids: Iterable[int]) -> list[str]:
        return [readable(chr(i)) if i < 128 else self.special_names.get(i, f"\\x{i:02x}") for i in map(int, ids)]

    def save(self, folder: str | Path) -> TokenizerSpec:
        return Bytes(sentinels=len(self.sentinels))

    def stream(self) -> StreamDecoder:
        return _ByteStream(self)

    def word_edges(self) -> tuple[Flags, Flags]:
        word = np.array([i < 256 and (i >= 128 or in_word(chr(i))) for i in range(self.vocab_size)])
        return word, word

    def _bytes(self, i: int, special: bool) -> bytes:
        if i < 256:
            return bytes((i,))
        return self.special_names[i].encode() if special else b""


class _ByteStream(StreamDecoder):
    """Knows from the byte alone whether a code point is unfinished, so a broken one is given out at once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, ids: int | Sequence[int]) -> str:
        new = [ids] if isinstance(ids, int) else ids
        return self._decoder.decode(bytes(i for i in new if i < 256))

    def finish(self) -> str:
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text
