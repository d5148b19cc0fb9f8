"""A checkpoint folder is written whole or not at all, and says by sha256 what it holds.

    folder.tmp-XXXX   being written: every file, then manifest.json, each fsynced
    folder            exchanged with it in one step; what was there before is removed afterwards

Where the system cannot exchange two folders in one step, the old one steps aside as `folder.old-XXXX`, and `settle`
puts a complete one back after a crash between the two renames.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from attnlib.errors import CheckpointError
from attnlib.pretrained.files import has_file, opened, plain_name, put, read_json, reason, sync, write_json

if sys.platform != "win32":
    import fcntl

MANIFEST = "manifest.json"
WEIGHTS = (".safetensors", ".bin")
Content = bytes | Callable[[Path], None]


def verify(folder: str | Path) -> None:
    """Check every file of the folder against its manifest; a CheckpointError names the first that changed."""
    folder = Path(folder)
    listed = read_manifest(folder)
    for name, wanted in listed.items():
        where, (parent, _, base) = str(folder / name), name.rpartition("/")
        if not has_file(folder / parent, base):
            raise CheckpointError(where, "is missing", f"wish the file that {MANIFEST} lists")
        found = _describe(folder / parent, base)
        if found["bytes"] != wanted["bytes"]:
            fact = f"has {found['bytes']} bytes where {MANIFEST} says {wanted['bytes']}"
            raise CheckpointError(where, fact, "wish the file as it was written", "truncated or replaced?")
        if found["sha256"] != wanted["sha256"]:
            fact = f"has changed bytes: its sha256 is not the one in {MANIFEST}"
            raise CheckpointError(where, fact, "wish the file as it was written", "use another checkpoint")
    for path in sorted(folder.iterdir()):
        if path.suffix in WEIGHTS and path.name not in listed:
            raise CheckpointError(str(path), f"is not listed in {MANIFEST}", "wish the weights that were written")


def read_manifest(folder: Path) -> dict[str, dict[str, object]]:
    """File name -> {sha256, bytes}, as manifest.json has it; names that leave the folder are refused."""
    if not has_file(folder, MANIFEST):
        raise CheckpointError(str(folder), f"has no {MANIFEST}", "wish a checkpoint that was written whole")
    listed, where = read_json(folder, MANIFEST).get("files"), folder / MANIFEST
    if not isinstance(listed, dict):
        raise CheckpointError(str(where), "lists no files", "wish names with sha256 and bytes")
    for name, entry in listed.items():
        _inside(name, where)
        if not isinstance(entry, dict) or not isinstance(entry.get("sha256"), str) or "bytes" not in entry:
            raise CheckpointError(str(where), f"does not describe {name!r}", "wish its sha256 and bytes")
    return listed


def make_manifest(folder: Path, names: list[str]) -> bytes:
    """The manifest of these files, as bytes to write."""
    found = {}
    for name in sorted(names):
        parent, _, base = name.rpartition("/")
        found[name] = _describe(folder / parent, base)
    return write_json({"format": 1, "files": found})


def _describe(folder: Path, name: str) -> dict[str, object]:
    digest = hashlib.sha256()
    with opened(folder, name) as (file, size):
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return {"sha256": digest.hexdigest(), "bytes": size}


def _inside(name: str, where: Path) -> PurePosixPath:
    path = PurePosixPath(name)
    for part in name.split("/"):
        plain_name(part, where)
    return path


def write_folder(target: str | Path, files: Mapping[str, Content]) -> None:
    """Write a checkpoint folder in one step: kill -9 or a full disk at any moment leaves the old one or the new one.

    `files` names each file (a `/` makes a subfolder) with its bytes, or with a function that writes it to the path it
    is given. An existing target is replaced if it is a checkpoint (has a manifest); files in it that no manifest lists
    are kept. One writer a target.
    """
    if not str(target):
        raise CheckpointError("folder", "has an empty name", "wish the name of a folder to write")
    target = Path(os.path.realpath(target))
    if target.exists() and not (target.is_dir() and (has_file(target, MANIFEST) or not any(target.iterdir()))):
        fact = "holds something else than a checkpoint" if target.is_dir() else "is a file"
        raise CheckpointError(str(target), fact, "wish a new folder, an empty one or an older checkpoint")
    for name in files:
        _inside(name, target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target)
        temporary = target.with_name(f"{target.name}.tmp-{secrets.token_hex(4)}")
        temporary.mkdir()
        with _claimed(temporary):
            try:
                _fill(temporary, files)
                old = _swap(temporary, target)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
        if old is not None:
            _discard(old, target)
    except OSError as error:
        fact = f"could not be written: {reason(error)}"
        raise CheckpointError(str(target), fact, "what was there before is untouched") from error


def _fill(folder: Path, files: Mapping[str, Content]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        put(path, content)
    put(folder / MANIFEST, make_manifest(folder, list(files)))
    for inner in sorted({(folder / name).parent for name in files} | {folder}, reverse=True):
        sync(inner)


def _swap(new: Path, target: Path) -> Path | None:
    """Put `new` at `target`; returns where the old folder went, if there was one."""
    old: Path | None = None
    if target.is_dir():
        if _exchange(new, target):
            old = new
        else:
            old = target.with_name(f"{target.name}.old-{secrets.token_hex(4)}")
            os.rename(target, old)
            try:
                os.rename(new, target)
            except OSError:
                os.rename(old, target)
                raise
    else:
        os.rename(new, target)
    sync(target.parent)
    return old


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step (Linux renameat2); False where the system or the file system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(call(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)


def settle(target: str | Path) -> Path:
    """The folder to read: `target`, after putting back a complete one if a crash left none in its place."""
    target = Path(os.path.realpath(target))
    if not os.path.lexists(target) and target.parent.is_dir():
        for path in [*_siblings(target, "tmp"), *_siblings(target, "old")]:  # the newer one first
            if not has_file(path, MANIFEST):
                continue
            with contextlib.suppress(CheckpointError, OSError):
                if any(_siblings(target, "old")) and _unclaimed(path):
                    verify(path)
                    os.rename(path, target)
                    return target
    return target


def _siblings(target: Path, sort: str) -> list[Path]:
    return sorted(path for path in target.parent.glob(f"{_escape(target.name)}.{sort}-????????") if path.is_dir())


def _escape(name: str) -> str:
    return "".join(f"[{mark}]" if mark in "*?[" else mark for mark in name)


def _sweep(target: Path) -> None:
    """Remove what killed writers left; a folder that a living writer has claimed stays."""
    settle(target)
    for path in [*_siblings(target, "tmp"), *_siblings(target, "old")]:
        if _unclaimed(path):
            _discard(path, target)


def _discard(old: Path, target: Path) -> None:
    """Remove a replaced folder; a file in it that its manifest does not list moves to the new one."""
    with contextlib.suppress(CheckpointError, OSError):
        listed = {name.split("/")[0] for name in read_manifest(old)} | {MANIFEST}
        for path in old.iterdir():
            if path.name not in listed and not os.path.lexists(target / path.name) and target.is_dir():
                os.rename(path, target / path.name)
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """Hold a lock on the folder while it is written; the system drops it when the writer dies."""
    if sys.platform == "win32":
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _unclaimed(folder: Path) -> bool:
    if sys.platform == "win32":
        return True
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        os.close(handle)
    return True
