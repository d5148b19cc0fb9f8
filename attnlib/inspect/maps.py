"""One attention map with the tokens of its two axes, and how tokens are made visible."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnlib.errors import UsageError

Array = NDArray[Any]  # floating, of any width

_KINDS = {"self": "self-attention", "cross": "cross-attention"}
_NAME = re.compile(r"(?:(?P<stack>.*)\.)?(?P<layer>\d+)\.(?P<kind>[^.]+)", re.DOTALL)
_MARKS = {"\n": "↵", "\t": "⇥", " ": "␣", "\u00a0": "⍽", "\x7f": "␡"}
_SPACES = "\u2581"  # how tokenizers write a space
_JOINERS = "\u200c\u200d"
_HALF_MAX = 65504.0  # the largest float16


@dataclass(frozen=True, eq=False)
class AttentionMap:
    """Attention weights of every head of one layer: `weights[h, q, k]` is what query q takes from key k.

    `name` is the path of the attention in the model ("decoder.0.self", "decoder.2.cross"); `weights` is a floating
    array [H, Q, K], finite, not negative; `query_tokens` and `key_tokens` name the Q and K tokens as text; `numbers` are
    those of the heads, where they are not all of the layer's.
    Raises UsageError naming the map when these do not fit together.
    """

    name: str
    weights: Array
    query_tokens: list[str]
    key_tokens: list[str]
    numbers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        w = self.weights
        if not isinstance(w, np.ndarray) or w.ndim != 3 or w.dtype.kind != "f" or w.size == 0:
            found = f"{w.dtype} {list(w.shape)}" if isinstance(w, np.ndarray) else type(w).__name__
            raise UsageError(self.name, f"weights are {found}", "wanted a floating array [heads, queries, keys]")
        if not self.numbers:
            object.__setattr__(self, "numbers", tuple(range(w.shape[0])))
        if len(self.numbers) != w.shape[0]:
            raise UsageError(self.name, f"{len(self.numbers)} numbers for {w.shape[0]} heads", "wanted one each")
        tokens = (len(self.query_tokens), len(self.key_tokens))
        if w.shape[1:] != tokens:
            fact = f"weights are {list(w.shape)} for {tokens[0]} query and {tokens[1]} key tokens"
            raise UsageError(self.name, fact, f"wanted [heads, {tokens[0]}, {tokens[1]}]")
        low, high = float(w.min()), float(w.max())  # a NaN anywhere makes both NaN
        if not (low >= 0 and high <= _HALF_MAX):
            raise UsageError(self.name, f"weights lie in [{low:g}, {high:g}]", "wanted finite weights, none below zero")

    @property
    def heads(self) -> int:
        """H, the number of heads."""
        return int(self.weights.shape[0])

    @property
    def place(self) -> tuple[str, int | None]:
        """("Decoder · self-attention", 0) of "decoder.0.self"; another form is a group of its own."""
        return place_of(self.name)


def place_of(name: str) -> tuple[str, int | None]:
    """The group and the layer that an attention's path says."""
    found = _NAME.fullmatch(name)
    if not found:
        return visible(name, spaces=False), None
    kind = _KINDS.get(found["kind"], found["kind"])
    parts = [(found["stack"] or "").replace(".", " "), kind]
    label = " · ".join(part for part in parts if part)
    return visible(label[:1].upper() + label[1:], spaces=False), int(found["layer"])


def visible(text: str, *, spaces: bool = True) -> str:
    """`text` with everything that cannot be seen written out, so that no two tokens look alike or reorder the page.

    Spaces at either end, also as tokenizers write them (▁), become ␣, newlines ↵, tabs ⇥, other controls their pictures,
    direction marks and other formatting characters, private and broken ones U+XXXX; what belongs inside an emoji or a
    script stays.
    """
    if not text:
        return "∅" if spaces else ""
    if not spaces:
        return "".join(c if c == " " else _seen(c, inside=True) for c in text)
    text = text.replace(_SPACES, " ") if text.strip(_SPACES) else " " * len(text)
    core = text.strip(" ")
    before = len(text) - len(text.lstrip(" "))
    after = len(text) - before - len(core)
    flag = core.startswith("\U0001f3f4")  # flags of regions are spelled with invisible tags
    shown = "".join(
        c if c == " " or (flag and "\U000e0020" <= c <= "\U000e007f") else _seen(c, inside=0 < i < len(core) - 1)
        for i, c in enumerate(core)
    )
    if core and unicodedata.category(core[0]).startswith("M"):
        shown = "\u25cc" + shown  # a lone accent needs something to sit on
    return "␣" * before + shown + "␣" * after


def _seen(c: str, *, inside: bool) -> str:
    """One character, or its picture or number when it would not be seen; joiners stay inside a word."""
    if c in _MARKS:
        return _MARKS[c]
    if c < " ":
        return chr(0x2400 + ord(c))
    if inside and c in _JOINERS:
        return c
    hidden = unicodedata.category(c) in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp", "Zs"}
    return f"U+{ord(c):04X}" if hidden else c
