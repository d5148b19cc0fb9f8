"""Plain scalars of YAML 1.2's core schema: what a word without quotes means."""

from __future__ import annotations

import re

Scalar = str | int | float | bool | None

_WORDS: dict[str, Scalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **{sign + word: float(sign + "inf") for sign in ("", "+", "-") for word in (".inf", ".Inf", ".INF")},
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_OTHER_BASE = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_LONGEST = 400  # digits; Python refuses to read whole numbers of thousands


def resolve(text: str) -> Scalar:
    """The value of a plain scalar: `1e-5` is a number, `yes` is text. ValueError for a number of absurd length."""
    if text in _WORDS:
        return _WORDS[text]
    number = _FLOAT.fullmatch(text) or _OTHER_BASE.fullmatch(text)
    if number is None:
        return text
    if len(text) > _LONGEST:
        raise ValueError(f"a number of {len(text)} digits")
    if _OTHER_BASE.fullmatch(text):
        return int(text, 0)
    return int(text) if _INT.fullmatch(text) else float(text)
