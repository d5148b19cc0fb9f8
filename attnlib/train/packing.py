"""Documents into training sequences: windows of one long text, or several documents a row without leaks."""

from __future__ import annotations

from collections.abc import Sequence

from attnlib.errors import DataError
from attnlib.text.tokenizer import Ids


class Windows:
    """One long text cut into windows of `length` tokens; each epoch cuts at another offset.

    Window i of an epoch is ids[i * stride + shift : ... + length], stride = length - overlap, 0 <= shift < stride;
    their number is the same in every epoch. `ids` may be memory-mapped: a window is a slice.
    """

    def __init__(self, ids: Ids, length: int, *, overlap: int = 0, origin: str = "text") -> None:
        self.ids, self.length, self.stride = ids, length, length - overlap
        if len(ids) < length:
            raise DataError(origin, f"holds {len(ids)} tokens", f"must hold at least one window of {length}",
                            "make the window shorter, or train on more text")  # fmt: skip
        # the last `stride - 1` starts are left to the shift, unless the text is too short for that
        self.shifts = min(self.stride, len(ids) - length + 1)
        self.count = (len(ids) - length - (self.shifts - 1)) // self.stride + 1

    def __len__(self) -> int:
        return self.count

    def window(self, index: int, shift: int = 0) -> Ids:
        """Window `index` of the epoch that cuts at `shift`."""
        start = index * self.stride + shift % self.shifts
        return self.ids[start : start + self.length]


def pieces(document: Ids, length: int, *, overlap: int = 0) -> list[Ids]:
    """A document in pieces of at most `length` tokens, each `overlap` tokens into the one before."""
    stride = length - overlap
    return [document[at : at + length] for at in range(0, max(1, len(document) - overlap), stride)]


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Rows of at most `capacity` tokens that hold every sequence once: their indices, row by row.

    Best fit, longest first: each sequence goes where it leaves the least room. O(n log n + n * capacity) at worst.
    """
    rows: list[list[int]] = []
    open_rows: dict[int, list[int]] = {}  # room left -> rows with that room
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        need = lengths[index]
        if need > capacity or need < 1:
            raise DataError("packing", f"sequence {index} has {need} tokens", f"must have 1 to {capacity}")
        room = min((r for r in open_rows if r >= need), default=None)
        if room is None:
            rows.append([])
            row, room = len(rows) - 1, capacity
        else:
            row = open_rows[room].pop()
            if not open_rows[room]:
                del open_rows[room]
        rows[row].append(index)
        open_rows.setdefault(room - need, []).append(row)
    return rows
