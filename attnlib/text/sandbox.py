"""Templates of strangers, rendered where they can reach nothing, and for as long as a template may take."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from typing import Any

from attnlib.errors import DataError, UsageError

SECONDS, LARGEST = 5.0, 1_000_000  # of a rendering; of a number or a text that a template makes more of
OLDEST = (3, 1, 6)  # older sandboxes can be left
_WIDE = re.compile(r"[%:.][^{}%]{0,4}\d{6}|%[^%]{0,4}\*|:[^{}]{0,4}\{")  # in a format: a width beyond reason, or any

_WIDENING = {"center": "()", "indent": "()", "format": "%"}  # filters, and what each is like


class TooMuch(Exception):
    """A template that takes too long or makes too much."""


def rendered(source: str, variables: Mapping[str, Any]) -> str:
    """The text that a Jinja template makes of plain data. UsageError where it is no template, refuses, or is hostile.

    As chat templates expect it: blocks trimmed, `break` and `continue`, `generation` blocks, `raise_exception`,
    `strftime_now`, and a `tojson` that leaves letters as they are. Attributes that begin with an underscore, calls that
    change data, and whatever takes more than five seconds are refused.
    """
    environment = _environment()
    import jinja2

    try:
        with _limited():
            return str(environment.from_string(source).render(**variables))
    except jinja2.TemplateSyntaxError as error:
        raise UsageError("chat template", f"line {error.lineno}: {_words(error)}", "wish a Jinja template") from None
    except jinja2.TemplateError as error:  # its own raise_exception too
        raise UsageError("chat template", f"refuses these messages: {_words(error)}") from None
    except (TooMuch, RecursionError, MemoryError, OverflowError) as error:
        raise UsageError("chat template", f"does not end in time: {_words(error)}", "wish one that does") from None
    except Exception as error:  # whatever a stranger's expression runs into
        raise UsageError("chat template", f"fails: {type(error).__name__}: {_words(error)}") from None


def _words(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


@contextmanager
def _limited() -> Iterator[None]:
    """Ends what runs longer than it may: Python asks at every line of the code that a template becomes."""
    end, before = time.monotonic() + SECONDS, sys.gettrace()

    def watch(frame: Any, event: str, arg: Any) -> Any:
        if time.monotonic() > end:
            raise TooMuch(f"{SECONDS:g} seconds are over")
        return watch

    sys.settrace(watch)
    try:
        yield
    finally:
        sys.settrace(before)


@lru_cache(maxsize=1)
def _environment() -> Any:
    try:
        import jinja2
        from jinja2.exceptions import SecurityError
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise DataError("chat template", "needs the package jinja2, which is not installed", "",
                        'pip install "attnlib[text]"') from error  # fmt: skip
    if (found := tuple(int(part) for part in re.findall(r"\d+", jinja2.__version__)[:3])) < OLDEST:
        wish = f"wish {'.'.join(map(str, OLDEST))} or later"
        raise DataError("chat template", f"jinja2 {'.'.join(map(str, found))} has a sandbox that can be left", wish)

    class Sandbox(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(("*", "**", "%"))

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            _modest(operator, left, right)
            return super().call_binop(context, operator, left, right)

        def wrap_str_format(self, value: Any) -> Any:
            if getattr(value, "__name__", "") in ("format", "format_map"):
                _modest("%", getattr(value, "__self__", None), None)
            return super().wrap_str_format(value)

        def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
            raise SecurityError(f"attribute {attribute!r} is not for templates")

        def call(self, context: Any, called: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(getattr(called, "__self__", None), str):  # ljust, zfill and their kin
                _modest("()", None, [*args, *kwargs.values()])
            return super().call(context, called, *args, **kwargs)

    environment = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_generation(), loopcontrols])
    wide = {name: _bounded(environment.filters[name], sign) for name, sign in _WIDENING.items()}
    environment.filters.update(wide, tojson=_tojson)
    del environment.globals["lipsum"]
    environment.globals.update(raise_exception=_raise, strftime_now=_now, dict=_dict, namespace=_namespace())
    return environment


def _modest(operator: str, left: Any, right: Any) -> None:
    """TooMuch for one step that would make more than a template needs."""
    numbers = [n for n in (left, *(right if isinstance(right, list) else (right,))) if isinstance(n, int)]
    large = any(abs(n) > LARGEST for n in numbers)
    if operator == "*":
        held = next((len(x) for x in (left, right) if isinstance(x, str | list | tuple)), None)
        large = held is not None and any(held * n > LARGEST for n in numbers)
    elif operator == "**":
        large = any(abs(n) > 1000 for n in numbers)
    elif operator == "%":
        large = isinstance(left, str) and _WIDE.search(left) is not None
    if large:
        raise TooMuch(f"{operator} makes more than {LARGEST}")


def _bounded(function: Any, sign: str) -> Any:
    def bounded(value: Any, *args: Any, **kwargs: Any) -> Any:
        _modest(sign, value, [*args, *kwargs.values()])
        return function(value, *args, **kwargs)

    return bounded


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    import jinja2

    raise jinja2.TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def _dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)


def _namespace() -> Any:
    from jinja2.exceptions import SecurityError
    from jinja2.utils import Namespace

    class Kept(Namespace):
        def __setitem__(self, name: str, value: Any) -> None:
            if name.startswith("_"):
                raise SecurityError(f"attribute {name!r} is not for templates")
            super().__setitem__(name, value)

    return Kept


def _generation() -> Any:
    """{% generation %}: what an assistant wrote; its text is as without it."""
    from jinja2 import nodes
    from jinja2.ext import Extension

    class Generation(Extension):
        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body).set_lineno(line)

    return Generation
