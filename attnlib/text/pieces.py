"""Byte-pair pieces trained on the training text itself (Sennrich et al., 2016, over bytes as in GPT-2)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field

from attnlib.errors import DataError
from attnlib.text.hf import HFTokenizer
from attnlib.text.tokenizer import TokenizerSpec

_SPECIAL = ("<pad>", "<bos>", "<eos>", "<sep>", "<mask>")
_LINES = 1000  # lines given to the trainer at once


class BPE(TokenizerSpec, kind="bpe"):
    """Byte-level byte-pair pieces: lossless for every text. `size` counts all ids: specials, 256 bytes, merges.

    Once saved it is an ordinary tokenizer.json, read by `hf`.
    """

    size: Annotated[int, Field(ge=300, le=1_000_000)] = 1024
    sentinels: Annotated[int, Field(ge=0, le=1000)] = 0

    def build(self, base: str | Path | None = None, texts: Iterable[str] | None = None) -> HFTokenizer:
        if texts is None:
            raise DataError("tokenizer", "is trained on the training text, and there is none", "bpe needs a text",
                            "a saved one is read by {kind: hf, path: tokenizer.json}")  # fmt: skip
        return train_pieces(texts, size=self.size, sentinels=self.sentinels)

    def learns(self) -> bool:
        return True


def train_pieces(texts: Iterable[str], *, size: int, sentinels: int = 0) -> HFTokenizer:
    """Trains `size` byte-level pieces; deterministic for the same texts."""
    try:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    except ImportError as error:
        raise DataError("tokenizer.kind", "bpe needs the package tokenizers, which is not installed", "",
                        'pip install "attnlib[text]", or use {kind: bytes}') from error  # fmt: skip
    pipeline = Tokenizer(models.BPE())
    pipeline.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pipeline.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        show_progress=False,
        special_tokens=[*_SPECIAL, *(f"<extra_id_{i}>" for i in range(sentinels))],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    pipeline.train_from_iterator(_lines(texts), trainer)
    roles = {name.strip("<>"): name for name in _SPECIAL}
    return HFTokenizer(pipeline.to_str(), origin="tokenizer trained on the text", roles=roles)


def _lines(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        lines = text.splitlines(keepends=True)
        for at in range(0, len(lines), _LINES):
            yield "".join(lines[at : at + _LINES])
