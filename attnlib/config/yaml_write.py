"""Plain trees as YAML text that every YAML 1.2 reader, and `parse`, takes back unchanged."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from attnlib.config.scalars import resolve

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./\-]*")
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
_WIDTH = 100
_OLD_BOOLS = {"y", "n", "yes", "no", "on", "off"}  # text for us, but not for YAML 1.1 readers


def to_yaml(tree: Mapping[str, Any]) -> str:
    """Block style at the outside, flow style for what fits on a line. TypeError for what is not plain."""
    return "\n".join(_block(tree, 0)) + "\n" if tree else "{}\n"


def _block(tree: Mapping[str, Any], indent: int) -> list[str]:
    lines = []
    for key, value in tree.items():
        head = f"{' ' * indent}{_text(key)}:"
        flow = _flow(value)
        nested = isinstance(value, Mapping | list | tuple) and bool(value)
        if not nested or (len(head) + len(flow) < _WIDTH and not _deep(value)):
            lines.append(f"{head} {flow}")
        elif isinstance(value, Mapping):
            lines += [head, *_block(value, indent + 2)]
        else:
            lines += [head, *(f"{' ' * (indent + 2)}- {_flow(item)}" for item in value)]
    return lines


def _deep(value: Any) -> bool:
    """Whether a mapping holds mappings: those are easier to read in block style."""
    return isinstance(value, Mapping) and any(isinstance(item, Mapping) and item for item in value.values())


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_text(key)}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, str):
        return _text(value)
    raise TypeError(f"a {type(value).__name__} is not plain YAML")


def _float(value: float) -> str:
    if math.isfinite(value):
        mantissa, e, exponent = float.__repr__(value).partition("e")
        return mantissa + ("" if "." in mantissa else ".0") + e + exponent  # YAML 1.1 readers need the point
    return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"


def _text(text: str) -> str:
    if not isinstance(text, str):
        raise TypeError(f"a {type(text).__name__} is not a plain YAML key")
    if _PLAIN.fullmatch(text) and resolve(text) == text and text.lower() not in _OLD_BOOLS:
        return text
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(letter: str) -> str:
    if letter in _ESCAPES:
        return _ESCAPES[letter]
    if letter.isprintable():
        return letter
    code = ord(letter)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
