"""metrics.jsonl: one row of figures a line, appended; and the same figures for TensorBoard."""

from __future__ import annotations

import contextlib
import json
import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attnlib.errors import UsageError
from attnlib.pretrained.files import reason, write_file


class MetricsLog:
    """Rows with a `step`. What a full disk refuses is kept and written with the next row."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pending: list[bytes] = []

    def rows(self) -> list[dict[str, Any]]:
        """The rows that are there; a line that was cut is left out."""
        found = []
        for line in self.path.read_bytes().split(b"\n") if self.path.exists() else ():
            row = _parsed(line)
            if row is not None:
                found.append(row)
        return found

    def truncate(self, step: int) -> None:
        """Drop rows past `step`, which a resumed run writes again, and a line that was cut."""
        if not self.path.exists():
            return
        lines = [line for line in self.path.read_bytes().split(b"\n") if line]
        kept = [line for line in lines if (row := _parsed(line)) is not None and row["step"] <= step]
        write_file(self.path, b"".join(line + b"\n" for line in kept))

    def append(self, row: Mapping[str, Any]) -> str | None:
        """Write a row; returns what the system said if it could not, and tries again with the next."""
        plain = {key: _finite(value) for key, value in row.items()}
        self._pending.append(json.dumps(plain, allow_nan=False).encode() + b"\n")
        return self.flush()

    def flush(self) -> str | None:
        """Write what is pending: all of it or nothing."""
        if not self._pending:
            return None
        try:
            with self.path.open("ab", buffering=0) as file:
                size, text = os.fstat(file.fileno()).st_size, b"".join(self._pending)
                try:
                    if file.write(text) != len(text):
                        raise OSError(28, "No space left on device")
                except OSError:
                    with contextlib.suppress(OSError):
                        file.truncate(size)
                    raise
        except OSError as error:
            return f"{self.path} could not be written: {reason(error)}"
        self._pending = []
        return None


class Board:
    """TensorBoard, where it is installed."""

    def __init__(self, folder: Path, step: int) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UsageError("train.tensorboard", "tensorboard is not installed", "needs it",
                             "pip install 'attnlib[tensorboard]'") from error  # fmt: skip
        self._writer: Any = SummaryWriter(str(folder), purge_step=step + 1)

    def append(self, row: Mapping[str, Any]) -> None:
        """The row's figures, at its step."""
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float):
                self._writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        self._writer.close()


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
