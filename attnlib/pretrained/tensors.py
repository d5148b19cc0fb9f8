"""Tensors by name out of files: single and sharded safetensors, torch `.bin`, by memory map where the form allows."""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from attnlib.errors import CheckpointError
from attnlib.pretrained.files import has_file, opened, plain_name, read_json
from attnlib.pretrained.header import Fact, Place, make_header, read_header
from attnlib.pretrained.pickled import read_pickled
from attnlib.pretrained.source import Source

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
BIN, BIN_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
SLAB = 12 << 20  # bytes that one step of a converting copy takes; a matrix of a small model is turned at once


class SafeTensors:
    """A Source over safetensors files of one folder, memory-mapped copy-on-write: a page is read when it is touched."""

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        self._places: dict[str, tuple[mmap.mmap, Place]] = {}
        for file_name in names:
            with opened(folder, file_name) as (file, size):
                places = read_header(file, size, folder / file_name)
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            if twice := sorted(places.keys() & self._places.keys()):
                fact = f"holds {twice[0]!r} again"
                raise CheckpointError(str(folder / file_name), fact, "wish each tensor in one shard")
            self._places.update((name, (mapped, place)) for name, place in places.items())
        self.facts = {name: place.fact for name, (_, place) in self._places.items()}

    def read(self, name: str) -> Tensor:
        """The tensor over the mapped bytes; a write to it stays in memory and never reaches the file."""
        mapped, place = self._places[name]
        (dtype, shape), count = place.fact, math.prod(place.fact.shape)
        if count == 0:
            return torch.empty(shape, dtype=dtype)
        if place.begin % dtype.itemsize:  # an unaligned tensor cannot be viewed
            flat = torch.frombuffer(bytearray(mapped[place.begin : place.end]), dtype=dtype)
        else:
            flat = torch.frombuffer(mapped, dtype=dtype, count=count, offset=place.begin)
        return flat.view(shape)

    def release(self, name: str) -> None:
        """Let go of the resident pages of a tensor that was copied elsewhere."""
        mapped, place = self._places[name]
        if hasattr(mapped, "madvise"):
            begin = -(-place.begin // mmap.PAGESIZE) * mmap.PAGESIZE
            length = place.end // mmap.PAGESIZE * mmap.PAGESIZE - begin
            if length > 0:
                mapped.madvise(mmap.MADV_DONTNEED, begin, length)


def open_tensors(folder: Path) -> Source:
    """The weights of a folder, whichever usual form they have; headers are checked, no tensor is read."""
    if has_file(folder, INDEX):
        index = _index(folder, INDEX)
        source: Source = SafeTensors(folder, sorted(set(index.values())))
        return _agree(source, index, folder / INDEX)
    if has_file(folder, SINGLE):
        return SafeTensors(folder, [SINGLE])
    if has_file(folder, BIN_INDEX):
        index = _index(folder, BIN_INDEX)
        return _agree(read_pickled(folder, sorted(set(index.values()))), index, folder / BIN_INDEX)
    if has_file(folder, BIN):
        return read_pickled(folder, [BIN])
    other = "a distributed checkpoint runs code when it is read" if has_file(folder, ".metadata") else ""
    raise CheckpointError(str(folder), "has no weights", f"wish {SINGLE}, shards with {INDEX}, or {BIN}", other)


def _index(folder: Path, name: str) -> dict[str, str]:
    found = read_json(folder, name).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise CheckpointError(str(folder / name), "has no weight_map", "wish tensor names with their files")
    return {key: plain_name(value, folder / name) for key, value in found.items()}


def _agree(source: Source, index: Mapping[str, str], where: Path) -> Source:
    """The index and the shards name the same tensors."""
    missing, extra = sorted(index.keys() - source.facts.keys()), sorted(source.facts.keys() - index.keys())
    if missing:
        fact = f"names {missing[0]!r} (and {len(missing) - 1} more) in {index[missing[0]]!r}, which has it not"
        raise CheckpointError(str(where), fact, "wish every tensor in its shard")
    if extra:
        raise CheckpointError(str(where), f"does not name {extra[0]!r} (and {len(extra) - 1} more)", "wish all tensors")
    return source


def copy_by_slabs(into: Tensor, view: Tensor, release: Callable[[], None]) -> Tensor:
    """Copy (and convert) `view` into `into` a few MB at a time, letting go of what was read."""
    if view.dim() == 0 or view.numel() * view.element_size() <= SLAB:
        into.copy_(view)
        release()
        return into
    strides = view.stride()
    dim = max(range(view.dim()), key=lambda axis: (view.shape[axis] > 1, strides[axis]))  # as the bytes lie
    rows = max(1, SLAB * view.size(dim) // (view.numel() * view.element_size()))
    for begin in range(0, view.size(dim), rows):
        width = min(rows, view.size(dim) - begin)
        into.narrow(dim, begin, width).copy_(view.narrow(dim, begin, width))
        release()
    return into


def write_tensors(path: Path, facts: Mapping[str, Fact], tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Write one safetensors file; each tensor is asked for once and may come in any order, from any device."""
    head, places = make_header(facts, path)
    left = set(places)
    with path.open("wb") as file:
        file.write(head)
        for name, tensor in tensors:
            if Fact(tensor.dtype, tuple(tensor.shape)) != places[name].fact or name not in left:
                raise CheckpointError(str(path), f"tensor {name!r} came changed or twice", "wish what its fact says")
            left.remove(name)
            file.seek(places[name].begin)
            if tensor.numel():
                whole = tensor.detach().to("cpu").contiguous()
                file.write(whole.view(-1).view(torch.uint8).numpy().data)
    if left:
        raise CheckpointError(str(path), f"never got the tensor {min(left)!r}", "wish every tensor once")


def shards(facts: Mapping[str, Fact], limit: int) -> Iterator[list[str]]:
    """The names in order, cut so that no shard passes `limit` bytes (a larger tensor stands alone)."""
    names: list[str] = []
    size = 0
    for name, fact in facts.items():
        if names and size + fact.nbytes > limit:
            yield names
            names, size = [], 0
        names.append(name)
        size += fact.nbytes
    if names:
        yield names
