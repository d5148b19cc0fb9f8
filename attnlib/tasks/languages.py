"""The languages of a tokenizer: tokens that are codes, such as en_XX, __fr__ or fra_Latn, or marks, such as >>fra<<."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from attnlib.errors import UsageError, nearest
from attnlib.generate.defaults import choose
from attnlib.tasks.ready import Ready

CODE = re.compile(r"[a-z]{2,3}_(?:[A-Z]{2}|[A-Z][a-z]{3})|__[a-z]{2,3}__")
MARK = re.compile(r">>\w+<<")  # before a text: the language to write


@dataclass(frozen=True)
class Languages:
    """codes, marks: ids by the languages' names; empty where the tokenizer has none."""

    ready: Ready
    codes: Mapping[str, int]
    marks: Mapping[str, int]

    @staticmethod
    def of(ready: Ready) -> Languages:
        specials = ready.tokenizer.special_names
        codes = {name: i for name, i in ready.tokenizer.named(CODE).items() if i in specials}
        return Languages(ready, codes, {name[2:-2]: i for name, i in ready.tokenizer.named(MARK).items()})

    def mark(self, target: str) -> int:
        """What stands before a text that is to be written in a language."""
        return _id(target, self.marks, "target")

    def template(self, source: str | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What stands around a source, its language where the tokenizer has one; None = the one that it has."""
        before, after = self.ready.tokenizer.template
        known = set(self.codes.values())
        if source is None:
            return before, after
        code = _id(source, self.codes, "source")
        if not known & {*before, *after}:
            raise UsageError("source language", f"is {source!r}", "the tokenizer puts no language around a text")
        return tuple(code if i in known else i for i in before), tuple(code if i in known else i for i in after)

    def beginning(self, target: str | None) -> dict[str, Any]:
        """Choices by which the output begins in a language; None = as the model's own say, which must name one."""
        chosen = choose(self.ready.model, None, {})
        start = self.ready.model.spec.decoder_start if chosen.start is None else chosen.start
        starts = start in self.codes.values()
        if target is not None:
            code = _id(target, self.codes, "target")
            return {"start": code} if starts else {"forced_bos_token_id": code}
        told = starts or any(rule.kind == "forced_bos_token_id" for rule in chosen.rules)
        if not told:
            raise UsageError("target language", "is not named", f"wish one of {', '.join(sorted(self.codes))}")
        return {}


def _id(name: str, known: Mapping[str, int], side: str) -> int:
    """The id of a language by its name, or by the part before the country or the script where one alone has it."""
    if name in known:
        return known[name]
    alike = [code for code in known if code.strip("_").split("_")[0] == name]
    if len(alike) == 1:
        return known[alike[0]]
    near = f"did you mean {' or '.join(alike)}?" if alike else nearest(name, known)
    raise UsageError(f"{side} language", f"{name!r} is unknown", f"wish one of {', '.join(sorted(known))}", near)
