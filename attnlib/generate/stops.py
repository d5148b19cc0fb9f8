"""Text as it grows: tokens to certain text, and stop strings that may lie across tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_CONTEXT = 16  # prompt tokens decoded along, so that the space before the first new word is not lost
_HALF = "\ufffd"  # what decoders write for bytes that are no code point (yet)


class Detokenizer:
    """Turns tokens into text piece by piece; a piece never ends within a code point.

    Only the tokens since the last piece, and that piece's own, are decoded again: the cost of a token does not grow
    with the text, and decoders that treat the first word apart (a leading space) are right.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], context: Sequence[int] = ()) -> None:
        self._decode = decode
        self._ids = list(context[-_CONTEXT:])
        self._done = len(self._ids)  # of these, already text

    def push(self, token: int) -> str:
        """The text that `token` completes."""
        self._ids.append(token)
        return self._next(last=False)

    def finish(self) -> str:
        """What is left when no token will follow."""
        return self._next(last=True)

    def _next(self, *, last: bool) -> str:
        if self._done == len(self._ids):
            return ""
        now = self._decode(self._ids)
        if now.endswith(_HALF) and not last:
            return ""
        before = self._decode(self._ids[: self._done]).rstrip(_HALF)  # a prompt may end within a code point
        self._ids = self._ids[self._done :]
        self._done = len(self._ids)
        return now[len(before) :]


class StopStrings:
    """Holds back text that may be the beginning of a stop string; `found` once one is complete."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """The part of the text so far that is certain: before a stop string, and before what may become one."""
        if self.found:
            return ""
        self._held += text
        places = [(place, place + len(stop)) for stop in self._stops if (place := self._held.find(stop)) >= 0]
        self.found = bool(places)
        # the stop that is complete first, whatever pieces the text came in; of those that end there, the longest
        cut = min(places, key=lambda span: (span[1], span[0]))[0] if places else len(self._held) - self._uncertain()
        out, self._held = self._held[:cut], self._held[cut:]
        return out

    def finish(self) -> str:
        """What was held back and is no stop string after all."""
        out, self._held = ("" if self.found else self._held), ""
        return out

    def _uncertain(self) -> int:
        """Length of the longest end of the text that begins a stop string."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for size in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-size:]) for stop in self._stops):
                return size
        return 0
