"""Labels of the words of a text: names of persons and places, parts of speech."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from attnlib.errors import LayoutError, UsageError
from attnlib.models.heads import TagHeadSpec
from attnlib.tasks.ready import Ready
from attnlib.tasks.rows import logits
from attnlib.tasks.windows import owners, trimmed, windows

Aggregation = Literal["token", "simple", "first", "average", "max"]
OUTSIDE = "O"
OVERLAP = 64  # tokens that windows of a long text share


class Tagged(NamedTuple):
    """text[start:end] has this label, with this probability."""

    text: str
    start: int
    end: int
    label: str
    score: float


class _Piece(NamedTuple):
    """A token, or the first of a word's, with one distribution over the labels."""

    id: int
    start: int
    end: int
    chances: Tensor  # [L]


def tag(ready: Ready, text: str, *, aggregation: Aggregation = "first", outside: bool = False) -> list[Tagged]:
    """The labelled stretches of a text, in order.

    aggregation: "token" gives every token as it is; "simple" joins neighbouring tokens of one label; the others first
    give each word one label, that of its first token, of the mean of its tokens, or of its surest token. Labels
    B-x and I-x are the beginning and the inside of an x; any other label goes on while it is repeated. The score of a
    stretch is the mean of its parts. outside: whether stretches labelled O are given too.

    Texts that are longer than the model takes are read in windows; each token is told in the one that shows most around it.
    """
    head = ready.head(TagHeadSpec, "tag", "tag")
    if aggregation not in get_args(Aggregation):
        raise UsageError("aggregation", f"is {aggregation!r}", f"must be one of {', '.join(get_args(Aggregation))}")
    ids, places = ready.tokenizer.offsets(text)
    if not ids:
        return []
    chances = _chances(ready, ids)
    pieces = [_Piece(i, *trimmed(text, *place), one) for i, place, one in zip(ids, places, chances)]
    if aggregation != "token":
        pieces = [piece for piece in pieces if piece.start < piece.end]
    if aggregation not in ("token", "simple"):
        pieces = [_word(part, aggregation) for part in _words(ready, pieces)]
    found = _joined(text, head.names, pieces, alone=aggregation == "token")
    return [one for one in found if outside or one.label != OUTSIDE]


def _chances(ready: Ready, ids: list[int]) -> list[Tensor]:
    """[L] of each token, from the window that shows most of its context."""
    tokenizer = ready.tokenizer
    width = len(ids) if ready.longest is None else ready.longest - len(tokenizer.join([]).ids)
    if width < 1:
        raise LayoutError("model", f"takes {ready.longest} tokens", "wish room for one between those around a text")
    spans = windows(len(ids), width, min(OVERLAP, width // 2))
    rows = [tokenizer.join(ids[span.start : span.stop]) for span in spans]
    ready.fits(rows, "text")
    tables = [one[row.first.start : row.first.stop].softmax(-1) for row, one in zip(rows, logits(ready, rows))]
    return [tables[number][t - spans[number].start] for t, number in enumerate(owners(spans, len(ids)))]


def _words(ready: Ready, pieces: list[_Piece]) -> list[list[_Piece]]:
    """The pieces of each word: neighbours without a gap that the vocabulary says run on."""
    continues, continued = ready.tokenizer.edges
    words: list[list[_Piece]] = []
    for piece in pieces:
        before = words[-1][-1] if words else None
        if before is not None and before.end == piece.start and continued[before.id] and continues[piece.id]:
            words[-1].append(piece)
        else:
            words.append([piece])
    return words


def _word(parts: list[_Piece], how: Aggregation) -> _Piece:
    chances = torch.stack([part.chances for part in parts])  # [T, L]
    if how == "first":
        one = chances[0]
    elif how == "average":
        one = chances.mean(0)
    else:
        one = chances[int(chances.max(-1).values.argmax())]
    return _Piece(parts[0].id, parts[0].start, parts[-1].end, one)


def _joined(text: str, names: tuple[str, ...], pieces: list[_Piece], *, alone: bool) -> list[Tagged]:
    groups: list[tuple[str, list[tuple[_Piece, float]]]] = []
    for piece in pieces:
        score, number = piece.chances.max(-1)
        name = names[int(number)]
        part = (piece, float(score))
        if alone:
            groups.append((name, [part]))
            continue
        begins, bare = name.startswith("B-"), name.removeprefix("B-").removeprefix("I-")
        if groups and groups[-1][0] == bare and not begins:
            groups[-1][1].append(part)
        else:
            groups.append((bare, [part]))
    return [_tagged(text, name, parts) for name, parts in groups]


def _tagged(text: str, label: str, parts: list[tuple[_Piece, float]]) -> Tagged:
    start, end = parts[0][0].start, parts[-1][0].end
    return Tagged(text[start:end], start, end, label, sum(score for _, score in parts) / len(parts))
