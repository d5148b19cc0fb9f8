"""Files that are either the old one or the new one, never half of one."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from attnlib.errors import UsageError


def write_whole(path: str | Path, data: bytes) -> None:
    """Write `data` beside `path`, flush it to the disk, and rename it into place.

    A link is followed, the permissions of a file that was there are kept. Raises UsageError when the folder is missing
    or closed, the disk is full, or `path` is not a plain file; nothing is left behind then.
    """
    with _beside(path) as (file, target, old):
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        if old:
            os.chmod(file.name, stat.S_IMODE(old.st_mode))
        os.replace(file.name, target)


def writable(path: str | Path) -> None:
    """Raise what `write_whole` would raise of this path, before the work that makes what is to be written."""
    with _beside(path):
        pass


@contextlib.contextmanager
def _beside(path: str | Path) -> Iterator[tuple[BinaryIO, Path, os.stat_result | None]]:
    """A new file in the folder of `path`, gone afterwards unless renamed; where it belongs, and what was there."""
    if not str(path):
        raise UsageError("output", "has an empty name", "wanted the name of a file to write")
    target = Path(os.path.realpath(path))
    temporary = target.parent / f".{target.name[:64]}.{secrets.token_hex(6)}.part"
    made = False
    try:
        old = target.stat() if target.exists() else None
        if old and not stat.S_ISREG(old.st_mode):  # renaming over a device or a folder would do harm or fail late
            kind = "is a folder" if stat.S_ISDIR(old.st_mode) else "is not a plain file"
            raise UsageError(str(path), kind, "wanted the name of a file to write")
        with open(temporary, "xb") as file:  # a new file gets what the user's umask leaves
            made = True
            yield file, target, old
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(str(path), f"cannot be written: {reason}", "wanted a place for the file") from error
    finally:
        if made:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
