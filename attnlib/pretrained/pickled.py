"""torch.save files, through the unpickler that knows tensors and containers only."""

from __future__ import annotations

import ctypes
import mmap
import sys
import zipfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attnlib.errors import CheckpointError
from attnlib.pretrained.files import regular_file
from attnlib.pretrained.source import InMemory


class Mapped(InMemory):
    """Tensors of which those named in `mapped` lie over a file's memory map; their pages are let go of once copied."""

    def __init__(self, tensors: Mapping[str, Tensor], mapped: Collection[str]) -> None:
        super().__init__(tensors)
        self._mapped = mapped

    def release(self, name: str) -> None:
        if name not in self._mapped:
            return
        tensor = self.read(name)
        begin = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        length = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE - begin
        if length > 0:  # advice only: the pages are read again if they are touched again
            ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(length), mmap.MADV_DONTNEED)


def read_pickled(folder: Path, names: Iterable[str]) -> InMemory:
    """The tensors of one or more pickles; whatever else they hold is refused, and no code of theirs runs."""
    tensors: dict[str, Tensor] = {}
    mapped, seen = set(), set[int]()
    for name in names:
        path = regular_file(folder, name)
        can = sys.platform.startswith("linux") and _stored(path)
        for key, value in _loaded(path, can).items():
            if key in tensors:
                raise CheckpointError(str(path), f"holds {key!r} again", "wish each tensor in one shard")
            place = value.untyped_storage().data_ptr()
            if place not in seen and value.is_contiguous():
                tensors[key] = value.detach()
                mapped |= {key} if can else set()
            else:  # names that share memory in the pickle are told apart
                tensors[key] = value.detach().clone(memory_format=torch.contiguous_format)
            seen.add(place)
    return Mapped(tensors, mapped)


def _stored(path: Path) -> bool:
    """Whether the file is a zip whose records lie in it as they are, so that they can be mapped."""
    try:
        with zipfile.ZipFile(path) as archive:
            return all(item.compress_type == zipfile.ZIP_STORED for item in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False  # the older form


def _loaded(path: Path, mapped: bool) -> dict[str, Tensor]:
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # what a crafted or cut pickle raises is anybody's guess
        said = (str(error) or type(error).__name__).splitlines()[0][:120]
        fact = f"cannot be read as weights: {said}"
        raise CheckpointError(str(path), fact, "wish a file of tensors only", "safetensors is safer") from error
    if not isinstance(found, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in found.items()
    ):
        raise CheckpointError(str(path), "holds more than tensors by name", "wish a state dict")
    return found

