"""The header of a safetensors file, read and written here: every claim is checked before a tensor is touched.

A file is 8 bytes (little endian) of header length, the header (JSON: name -> dtype, shape, data_offsets), and the data.
Offsets count from the end of the header; the tensors fill the data without a hole.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch

from attnlib.errors import CheckpointError
from attnlib.pretrained.files import parse_json

HEADER_LIMIT = 100_000_000  # bytes, as the format has it
DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8,
    "BOOL": torch.bool, "C64": torch.complex64,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}


class Fact(NamedTuple):
    """What is known of a tensor before it is read."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class Place(NamedTuple):
    """Where a tensor's bytes stand, counted from the start of the file."""

    fact: Fact
    begin: int
    end: int


def read_header(file: BinaryIO, size: int, path: Path) -> dict[str, Place]:
    """The tensors of an opened safetensors file by name, in the order of their bytes."""
    where = str(path)
    if size < 8:
        raise CheckpointError(where, f"has {size} bytes", "wish a safetensors file", "truncated?")
    length = int.from_bytes(file.read(8), "little")
    if length > HEADER_LIMIT or length > size - 8:
        fact = f"claims a header of {length} bytes in a file of {size}"
        raise CheckpointError(where, fact, "wish a safetensors file", "truncated, or of another format?")
    text = file.read(length)
    if not text.startswith(b"{"):
        raise CheckpointError(where, "has a header that does not begin with '{'", "wish a safetensors file")
    tree = parse_json(text, f"{where}: header")
    if not isinstance(tree, dict):
        raise CheckpointError(where, "has a header that is no JSON object", "wish a safetensors file")
    metadata = tree.pop("__metadata__", None)
    if metadata is not None and not (
        isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())
    ):
        raise CheckpointError(where, "has metadata that is not text by name", "wish a safetensors file")
    start = 8 + length
    places = {name: _place(name, entry, start, where) for name, entry in tree.items()}
    _fills(places, start, size, where)
    return places


def _place(name: str, entry: Any, start: int, where: str) -> Place:
    def refuse(fact: str) -> CheckpointError:
        return CheckpointError(where, f"tensor {name[:200]!r} {fact}", "wish a safetensors header that holds true")

    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise refuse("is not described by dtype, shape and data_offsets")
    dtype = DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise refuse(f"has the unknown dtype {str(entry['dtype'])[:50]!r}")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _counts(shape) or len(shape) > 64 or math.prod(max(size, 1) for size in shape) >= 1 << 60:
        raise refuse(f"has the shape {str(shape)[:100]}")
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise refuse(f"has the offsets {str(offsets)[:100]}")
    fact = Fact(dtype, tuple(shape))
    if offsets[1] - offsets[0] != fact.nbytes:
        raise refuse(f"takes {offsets[1] - offsets[0]} bytes where its shape {shape} takes {fact.nbytes}")
    return Place(fact, start + offsets[0], start + offsets[1])


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 62 for item in value)


def _fills(places: dict[str, Place], start: int, size: int, where: str) -> None:
    """The tensors fill the data from its first byte to its last, one after another."""
    at = start
    for name, place in sorted(places.items(), key=lambda item: (item[1].begin, item[1].end)):
        if place.begin != at:
            fact = "overlaps another" if place.begin < at else f"stands behind a hole of {place.begin - at} bytes"
            raise CheckpointError(where, f"tensor {name[:200]!r} {fact}", "wish tensors one after another")
        at = place.end
    if at != size:
        fact = f"has {size} bytes where its header describes {at}"
        raise CheckpointError(where, fact, "wish all bytes described", "truncated?" if at > size else "")


def make_header(facts: Mapping[str, Fact], path: Path) -> tuple[bytes, dict[str, Place]]:
    """The first bytes of a file of these tensors, and where each goes: wide dtypes first, so that all stay aligned."""
    tree: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offsets, at = {}, 0
    for name in sorted(facts, key=lambda name: (-facts[name].dtype.itemsize, name)):
        fact = facts[name]
        if fact.dtype not in NAMES:
            raise CheckpointError(str(path), f"tensor {name!r} is of {fact.dtype}", "wish a dtype that safetensors has")
        offsets[name] = (at, at + fact.nbytes)
        tree[name] = {"dtype": NAMES[fact.dtype], "shape": list(fact.shape), "data_offsets": list(offsets[name])}
        at += fact.nbytes
    text = json.dumps(tree, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-(len(text) + 8) % 64)  # the data begins on a cache line
    start = 8 + len(text)
    places = {name: Place(facts[name], start + begin, start + end) for name, (begin, end) in offsets.items()}
    return len(text).to_bytes(8, "little") + text, places
