"""Files that are opened without trust and written without loss: the floor below every checkpoint."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from attnlib.errors import CheckpointError

JSON_LIMIT = 64 << 20  # bytes; the index of a model of a thousand shards is a few MB


def plain_name(name: object, where: Path) -> str:
    """`name` if it is the plain name of a file: no folder, no `..`, no NUL, no drive."""
    if not isinstance(name, str) or not name:
        raise CheckpointError(str(where), f"names the file {name!r}", "wish a plain file name")
    if name in (".", "..") or any(mark in name for mark in ("/", "\\", "\0", ":")):
        raise CheckpointError(str(where), f"names the file {name!r}", "wish a plain file name", "no folders, no `..`")
    return name


def regular_file(folder: Path, name: str) -> Path:
    """The path of `name` in `folder`, if opening it reads a regular file that belongs there.

    A link is followed only to a regular file of the same folder, or to the `blobs` of the hub cache that the folder
    (`…/snapshots/REVISION`) is part of.
    """
    path = folder / plain_name(name, folder)
    try:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            home, real = folder.resolve(), path.resolve(strict=True)
            allowed = [home]
            if home.parent.name == "snapshots":
                allowed.append(home.parent.parent / "blobs")
            if real.parent not in allowed:
                raise CheckpointError(str(path), f"is a link to {real}", "wish a file of its own folder")
            mode = real.lstat().st_mode
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        raise CheckpointError(str(path), f"cannot be opened: {reason(error)}", "wish a readable file") from error
    if not stat.S_ISREG(mode):
        raise CheckpointError(str(path), "is not a regular file", "wish a file")
    return path


def has_file(folder: Path, name: str) -> bool:
    """Whether `folder` has an entry of this name, be it a broken link (which opening then refuses)."""
    return os.path.lexists(folder / name)


@contextlib.contextmanager
def opened(folder: Path, name: str) -> Iterator[tuple[BinaryIO, int]]:
    """The opened file and its size in bytes; what the system refuses becomes a CheckpointError."""
    path = regular_file(folder, name)
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):  # changed between the look and the opening
                raise CheckpointError(str(path), "is not a regular file", "wish a file")
            yield file, found.st_size
    except OSError as error:
        raise CheckpointError(str(path), f"cannot be read: {reason(error)}", "wish a readable file") from error


def parse_json(text: bytes, where: str) -> Any:
    """JSON as the standard has it: UTF-8, no NaN, no key twice, or a CheckpointError."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise ValueError(f"key {twice!r} stands twice")
        return found

    def constant(name: str) -> float:
        if name == "NaN":
            raise ValueError("NaN is not JSON")
        return float(name.replace("Infinity", "inf"))  # configs on the hub carry Infinity for "no limit"

    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=once, parse_constant=constant)
    except RecursionError:
        raise CheckpointError(where, "is nested too deeply", "wish JSON") from None
    except ValueError as error:  # bad JSON, bad UTF-8, a number of thousands of digits
        raise CheckpointError(where, f"is no JSON: {str(error)[:200]}", "wish JSON") from None


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """The JSON object that a file of the folder holds."""
    path = folder / name
    with opened(folder, name) as (file, size):
        if size > JSON_LIMIT:
            raise CheckpointError(str(path), f"has {size} bytes", f"wish at most {JSON_LIMIT}")
        found = parse_json(file.read(JSON_LIMIT), str(path))
    if not isinstance(found, dict):
        raise CheckpointError(str(path), f"holds a {type(found).__name__}", "wish a JSON object")
    return found


def write_json(tree: Mapping[str, Any]) -> bytes:
    """A JSON object as people read it, with a line end."""
    return (json.dumps(tree, indent=2, ensure_ascii=False) + "\n").encode("utf-8")


def write_file(path: Path, content: bytes | Callable[[Path], None]) -> None:
    """Write one file so that the old one stays whole until the new one is: temporary file, fsync, rename, fsync."""
    temporary = path.with_name(f"{path.name}.tmp-{secrets.token_hex(4)}")
    try:
        put(temporary, content)
        os.replace(temporary, path)
        sync(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise CheckpointError(str(path), f"could not be written: {reason(error)}", "nothing was changed") from error
        raise


def put(path: Path, content: bytes | Callable[[Path], None]) -> None:
    """Write a new file and wait until the disk has it."""
    if callable(content):
        content(path)
    else:
        path.write_bytes(content)
    sync(path)


def sync(path: Path) -> None:
    """fsync a file or a folder."""
    if os.name == "nt" and path.is_dir():  # a folder cannot be opened there
        return
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def reason(error: BaseException) -> str:
    """What the system said, without the path that the message names already."""
    return getattr(error, "strerror", None) or str(error)
