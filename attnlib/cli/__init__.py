"""The command line: `attnlib COMMAND ...`, also `python -m attnlib` and the scripts of a checkout.

Each command is a module with HELP, `arguments(parser)` and `run(args)`; what is heavy it imports inside `run`.
Exit codes: 0 done, 1 a check failed, 2 bad input, 130 Ctrl-C, 141 nobody reads the output, 143 SIGTERM.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from attnlib.errors import AttnlibError, UsageError, one_line

COMMANDS = (
    "train", "generate", "chat", "fill", "embed", "classify", "answer", "tag", "translate", "summarize", "transcribe",
    "score", "evaluate", "describe", "cost", "check", "explain",
    "attend", "heads", "why", "faithful", "lens", "patch", "prune",
    "load", "export", "parity", "configs", "schema",
)  # fmt: skip
DEBUG = "ATTNLIB_DEBUG"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. What goes wrong is a line on stderr, never a traceback."""
    for stream in (sys.stdout, sys.stderr):  # a terminal that has not all letters gets escapes, not an error
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    args = _parse(sys.argv[1:] if argv is None else list(argv))
    try:
        for name in args.modules:
            _load(name)
        code: int = importlib.import_module(f"attnlib.cli.{args.command}").run(args)
        print(end="", flush=True)  # a closed stdout is None, which print takes
        return code
    except AttnlibError as error:
        return _refused(str(error), getattr(error, "exit_code", 2))
    except KeyboardInterrupt:
        return _refused("stopped by Ctrl-C", 130)
    except BrokenPipeError:
        with contextlib.suppress(OSError, ValueError):  # so that the interpreter's own flush has nobody to fail to
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        return _refused(f"{error.filename or args.command}: {(error.strerror or str(error)).lower()}", 2)
    except Exception as error:
        if _out_of_memory(error):
            return _refused(f"{args.command}: not enough memory, wish a smaller model, batch or text", 2)
        if _overflow(error):
            return _refused(f"{args.command}: a number is too large to count with, wish smaller sizes and numbers", 2)
        if "embedded null byte" in str(error):  # what Python says of a file's name
            return _refused(f"{args.command}: a name holds a NUL character, wish one that a file can have", 2)
        return _bug(args.command, error)


class _Parser(argparse.ArgumentParser):
    """Refuses in one line, as everything else here does."""

    def error(self, message: str) -> NoReturn:
        fact = message.removeprefix("argument ")
        self.exit(2, f"{one_line(f'{self.prog}: {fact}')} ({self.prog} --help shows what it takes)\n")


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = _Parser(
        prog="attnlib", description="Transformers composed from attention parts: train, use and look into them."
    )
    chosen = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        module = importlib.import_module(f"attnlib.cli.{name}")
        one = chosen.add_parser(name, help=module.HELP, description=module.HELP)
        module.arguments(one)
        one.add_argument("--import", dest="modules", action="append", default=[], metavar="FILE",
                         help="a Python file or module with kinds of your own; may be repeated")  # fmt: skip
        one.set_defaults(parser=one)
    args, left = parser.parse_known_args(argv)
    if left and hasattr(args, "overrides") and not any(word.startswith("-") for word in left):
        args.overrides += left  # key=value after an option, which argparse gives back
    elif left:
        args.parser.error(f"unrecognized arguments: {' '.join(left)}")
    return args


def _load(name: str) -> None:
    """Run a user's file, or import a module, so that the kinds in it are known."""
    try:
        if not name.endswith(".py"):
            importlib.import_module(name)
            return
        spec = importlib.util.spec_from_file_location(os.path.basename(name)[:-3], name)
        assert spec is not None and spec.loader is not None
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # kept: kinds live as long as it
        spec.loader.exec_module(module)
    except OSError as error:
        raise UsageError(f"--import {name}", f"cannot be read: {error.strerror}", "wish a Python file or module") from None
    except Exception as error:  # the user's own code
        words = (str(error).splitlines() or [""])[0]
        raise UsageError(f"--import {name}", f"{type(error).__name__}: {words}", "wish a module that imports") from error


def _refused(text: str, code: int) -> int:
    with contextlib.suppress(BrokenPipeError):
        print(text, file=sys.stderr)
    return code


def _out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("not enough memory", "can't allocate memory", "out of memory")
    )


def _overflow(error: Exception) -> bool:
    """Sizes and numbers that fit no machine word: Python's and torch's ways to say so."""
    return isinstance(error, OverflowError) or any(
        words in str(error) for words in ("Overflow when unpacking", "Storage size calculation overflowed")
    )


def _bug(command: str, error: Exception) -> int:
    """An error that no input should bring about."""
    if os.environ.get(DEBUG):
        traceback.print_exc()
    words = (str(error).splitlines() or [""])[0]
    return _refused(
        f"{command}: internal error {type(error).__name__}: {words}, please report it ({DEBUG}=1 shows where)", 2
    )
