"""The same data as files: --csv, --npz and --safetensors for other programs, --svg and --png for papers."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attnlib.inspect.drawing import Form
    from attnlib.inspect.export import Sheet

DATA = {"csv": "a table", "npz": "NumPy arrays", "safetensors": "tensors"}
FIGURES = {"svg": "a figure for papers", "png": "a picture"}


def output_arguments(parser: argparse.ArgumentParser) -> None:
    for name, what in (DATA | FIGURES).items():
        parser.add_argument(f"--{name}", metavar="FILE", help=f"write {what}")


def asked(args: argparse.Namespace) -> list[str]:
    """The kinds of files asked for."""
    return [name for name in (*DATA, *FIGURES) if getattr(args, name) is not None]


def check_outputs(*paths: str | None) -> None:
    """Refuse files that cannot be written, or one named twice, before the work that they wait for."""
    from attnlib.errors import UsageError
    from attnlib.inspect.files import writable

    given = [path for path in paths if path is not None]
    for number, path in enumerate(given):
        writable(path)
        if path in given[:number]:
            raise UsageError(path, "is named twice", "wish a file each")


def write_outputs(args: argparse.Namespace, sheet: Callable[[], Sheet], draw: Callable[[str, Form], None]) -> list[str]:
    """Writes each file asked for, whole or not at all; their names."""
    from attnlib.inspect.export import WRITERS

    made: Sheet | None = None
    written = []
    for name in asked(args):
        path: str = getattr(args, name)
        if name in DATA:
            made = sheet() if made is None else made
            WRITERS[name](made, path)
        else:
            draw(path, "svg" if name == "svg" else "png")
        written.append(path)
    return written
