"""Every error of attnlib says where, what is, and what was wished: `path: fact, wish (hint)`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AttnlibError(ValueError):
    """Base of attnlib's errors. `path` names the place, `fact` what is there, `wish` what should be, `hint` a way out."""

    def __init__(self, path: str, fact: str, wish: str = "", hint: str = "") -> None:
        self.path, self.fact, self.wish, self.hint = path, fact, wish, hint
        text = ", ".join(part for part in (fact, wish) if part)
        line = f"{path}: {text}" + (f" ({hint})" if hint else "")
        super().__init__(one_line(line))

    def __reduce__(self) -> tuple[type[AttnlibError], tuple[str, str, str, str]]:
        return type(self), (self.path, self.fact, self.wish, self.hint)


class SpecError(AttnlibError):
    """A configuration that cannot be built."""


class LayoutError(AttnlibError):
    """Tokens, positions, segments or lengths that do not fit together or do not fit the model."""


class BackendError(AttnlibError):
    """A backend that was asked for by name and refuses the call."""


class CheckpointError(AttnlibError):
    """A checkpoint that is damaged, incomplete, or of another shape than the model."""


class DataError(AttnlibError):
    """Text or labels that an objective cannot train on."""


class UsageError(AttnlibError):
    """A call or a command line that asks for something that is not there."""


def one_line(text: str) -> str:
    """Line ends and control characters, as a file's name may hold them, written as escapes."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def nearest(name: str, among: Iterable[str]) -> str:
    """A `did you mean 'x'?` hint, or an empty string when nothing is near."""
    found = difflib.get_close_matches(name, list(among), n=1, cutoff=0.6)
    return f"did you mean {found[0]!r}?" if found else ""
