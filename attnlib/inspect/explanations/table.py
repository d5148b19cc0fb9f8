"""Explanations as text for a terminal: a row a word and a column a method, or a line an output token."""

from __future__ import annotations

import math
from collections.abc import Sequence

from attnlib.inspect.explanations.result import Explanation
from attnlib.inspect.maps import visible

BAR = 12  # cells of the longest bar


def table(found: Sequence[Explanation], *, top: int = 3) -> str:
    """Explanations of one question by several methods: words down and methods across, or the `top` words of each target."""
    if len(found[0].targets) > 1:
        return "\n\n".join(_many(one, top) for one in found)
    head = found[0]
    chance = math.exp(head.logprobs[0])
    lines = [f"{head.targets[0]}: logit {head.values[0]:.4f}, probability {chance:.4f}"]
    width = max(len(_word(word.text)) for side in head.sides for word in side.words)
    names = [one.method for one in found]
    for side in head.sides:
        lines.append("")
        title = side.name.ljust(width)
        lines.append("  ".join([title, *(name.rjust(max(len(name), 9)) for name in names)]))
        rows = [one.words(side.name) for one in found]
        most = max((abs(score) for _, score in rows[0]), default=0.0) or 1.0
        for number, word in enumerate(side.words):
            cells = [f"{row[number][1]:.4f}".rjust(max(len(name), 9)) for name, row in zip(names, rows, strict=True)]
            bar = "" if len(found) > 1 else "  " + _bar(rows[0][number][1] / most)
            lines.append("  ".join([_word(word.text).ljust(width), *cells]) + bar)
    lines += [f"{one.method}: {_notes(one)}" for one in found if one.notes]
    return "\n".join(lines)


def _many(one: Explanation, top: int) -> str:
    lines = [f"{one.method}: the {top} words that each token owes most to"]
    width = max(len(visible(name)) for name in one.targets)
    for number, name in enumerate(one.targets):
        best = [f"{_word(word.text)} {score:.3f}" for _, word, score in one.best(top, number)]
        lines.append(f"  {visible(name).ljust(width)}  p {math.exp(one.logprobs[number]):.3f}  {'  '.join(best)}")
    return "\n".join([*lines, *([f"  {_notes(one)}"] if one.notes else [])])


def _notes(one: Explanation) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {float(values.max()):.2g}" for name, values in one.notes.items())


def _bar(share: float) -> str:
    return ("-" if share < 0 else "+") * round(abs(share) * BAR)


def _word(text: str) -> str:
    shown = visible(text)
    return shown if len(shown) <= 24 else shown[:23] + "…"
