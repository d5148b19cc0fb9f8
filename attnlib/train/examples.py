"""Rows of text as examples in ids: what an objective makes batches of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from attnlib.errors import DataError
from attnlib.text.tokenizer import Ids, Tokenizer
from attnlib.train.data import Row
from attnlib.train.order import epoch_shift
from attnlib.train.packing import Windows, pack, pieces

Example = tuple[Ids, ...]  # what the parts are is up to the objective: segments, source and target, ids and label
Frame = tuple[tuple[int, ...], tuple[int, ...]]  # ids before and after
TooLong = Literal["refuse", "cut", "skip"]


@dataclass(frozen=True)
class Examples:
    """Examples by index: listed, or windows of one text that shift from epoch to epoch.

    tokens, characters: of the texts they were made from, for bits per character.
    """

    listed: Sequence[Example] = ()
    windows: Windows | None = None
    frame: Frame = ((), ())  # ids before and after each window
    tokens: int = 0
    characters: int = 0

    def __len__(self) -> int:
        return len(self.listed) if self.windows is None else len(self.windows)

    def example(self, index: int, epoch: int = 0, seed: int = 0) -> Example:
        """Example `index` as epoch `epoch` sees it."""
        if self.windows is None:
            return self.listed[index]
        return (_framed(self.windows.window(index, epoch_shift(seed, epoch, self.windows.shifts)), self.frame),)


def _framed(ids: Ids, frame: Frame) -> Ids:
    return np.concatenate([_ids(frame[0]), ids, _ids(frame[1])]) if frame[0] or frame[1] else ids


def running_text(
    rows: Sequence[Row],
    tokenizer: Tokenizer,
    length: int,
    *,
    training: bool,
    overlap: int = 0,
    piece: Frame = ((), ()),
    document: Frame = ((), ()),
    packed: bool = True,
) -> Examples:
    """Texts in examples of at most `length` tokens.

    One running text in training: windows that shift with the epoch. Else every token once: each text in pieces,
    `packed` together where they are short. Consecutive pieces of one text overlap by `overlap` tokens. `piece`: ids
    before and after every piece; `document`: those around every text that is whole.
    """
    room = length - len(piece[0]) - len(piece[1])
    if room < 2:
        raise DataError("train.length", f"is {length}", f"must be at least {length - room + 2}")
    running = len(rows) == 1 and rows[0].running
    texts = [tokenizer.pieces(row["text"]) for row in rows]
    tokens, characters = sum(map(len, texts)), sum(len(row["text"]) for row in rows)
    if training and running:
        windows = Windows(texts[0], room, overlap=overlap, origin=rows[0].origin)
        return Examples(windows=windows, frame=piece, tokens=tokens, characters=characters)
    if not running:
        texts = [_framed(text, document) for text in texts]
    parts = [_framed(p, piece) for text in texts for p in pieces(text, room, overlap=overlap) if len(p) >= 2]
    if not parts:
        raise DataError(rows[0].origin if rows else "data", "holds less than two tokens", "must hold text")
    groups = [[i] for i in range(len(parts))] if running or not packed else pack(list(map(len, parts)), length)
    return Examples([tuple(parts[i] for i in group) for group in groups], tokens=tokens, characters=characters)


def fitting(ids: Sequence[int], length: int, policy: TooLong, origin: str, what: str) -> Ids | None:
    """The ids if at most `length`; else refused, cut at the end, or None (skipped)."""
    if len(ids) <= length:
        return _ids(ids)
    if policy == "refuse":
        raise DataError(origin, f"{what} has {len(ids)} tokens", f"must have at most {length}",
                        "objective.too_long: cut or skip, or a longer train.length")  # fmt: skip
    return _ids(ids[:length]) if policy == "cut" else None


def _ids(ids: Sequence[int]) -> Ids:
    return np.asarray(ids, dtype=np.int64)
