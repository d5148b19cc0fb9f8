"""Stretches of a text: windows of one that is longer than a model takes, and places in it."""

from __future__ import annotations


def windows(tokens: int, width: int, stride: int) -> list[range]:
    """Ranges of at most `width` tokens that together cover all of them; neighbours share `stride` tokens."""
    step = width - stride
    starts = range(0, max(tokens - stride, 1), step)
    return [range(start, min(start + width, tokens)) for start in starts]


def owners(spans: list[range], tokens: int) -> list[int]:
    """For each token the window that shows most of its context: the greatest of the lesser distances to its ends."""

    def context(token: int, number: int) -> int:
        return min(token - spans[number].start, spans[number].stop - 1 - token)

    return [max((n for n, span in enumerate(spans) if t in span), key=lambda n: context(t, n)) for t in range(tokens)]


def trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """The place without the space around it, which pieces of some vocabularies hold; nothing but space is empty."""
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    return start, end
