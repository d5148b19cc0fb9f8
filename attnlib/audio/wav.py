"""WAV files: whole numbers (PCM) and floats, also under the extensible header that wider samples come with."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from attnlib.errors import DataError

WHOLE, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE  # of samples; the last names one of the others further on
BITS = {WHOLE: (8, 16, 24, 32), FLOAT: (32, 64)}
RATES = range(1_000, 1_000_001)  # a second; where a header lies about it, changing the rate would take all memory


def read_wav(path: str | Path) -> tuple[Tensor, int]:
    """(samples [channels, N] float32, rate in samples a second) of a file of 8, 16, 24 or 32 bits, or of floats.

    Whole numbers become fractions in [-1, 1). DataError where the file is no such WAV. What a file ends before its header
    said is left out.
    """
    content = Path(path).read_bytes()
    try:
        kind, channels, rate, bits, samples = _parts(content)
    except (struct.error, ValueError) as error:
        raise DataError(str(path), f"is no WAV file that is read here: {error}", "wish 8, 16, 24 or 32 bits, or floats",
                        "ffmpeg -i FILE -c:a pcm_s16le FILE.wav") from None  # fmt: skip
    size = bits // 8 * channels
    data = bytearray(samples[: len(samples) // size * size])  # of frames that are all there
    found = _floats(data, bits) if kind == FLOAT else _whole_numbers(data, bits // 8)
    return found.view(-1, channels).T.contiguous(), rate


def _parts(content: bytes) -> tuple[int, int, int, int, memoryview]:
    """(kind, channels, rate, bits a sample, the samples); ValueError in words where the file has them not."""
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        raise ValueError("it does not begin with RIFF and WAVE")
    form: tuple[int, int, int, int] | None = None
    for name, chunk in _chunks(memoryview(content)[12:]):
        if name == b"fmt ":
            if len(chunk) < 16:
                raise ValueError("its header ends early")
            kind, channels, rate, _, frame, counted = struct.unpack("<HHIIHH", chunk[:16])
            if kind == EXTENSIBLE and len(chunk) >= 26:
                kind = struct.unpack("<H", chunk[24:26])[0]
            bits = frame * 8 // max(channels, 1)  # as they are stored; fewer of them may count
            whole = channels and rate in RATES and bits * channels == frame * 8 and counted <= bits
            if not whole or bits not in BITS.get(kind, ()):
                raise ValueError(f"it holds {channels} channels of {counted} bits at {rate} a second, of kind {kind}")
            form = kind, channels, rate, bits
        if name == b"data" and form is not None:
            return *form, chunk
    raise ValueError("it ends before its samples begin")


def _chunks(content: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Name and content of each part; the last may be shorter than it says."""
    at = 0
    while at + 8 <= len(content):
        name, size = struct.unpack("<4sI", content[at : at + 8])
        yield name, content[at + 8 : at + 8 + size]
        at += 8 + size + size % 2


def _floats(data: bytearray, bits: int) -> Tensor:
    """Little-endian floats as they are; what is no number is silence."""
    if not data:
        return torch.zeros(0)
    return torch.frombuffer(data, dtype=torch.float32 if bits == 32 else torch.float64).float().nan_to_num(0.0, 0.0, 0.0)


def _whole_numbers(data: bytearray, width: int) -> Tensor:
    """Little-endian samples as fractions of the largest; those of 8 bits have no sign and lie around 128."""
    if not data:
        return torch.zeros(0)
    kind = {1: torch.uint8, 2: torch.int16, 3: torch.uint8, 4: torch.int32}[width]
    found: Tensor = torch.frombuffer(data, dtype=kind).double()
    if width == 1:
        found = found - 128
    if width == 3:
        low, middle, high = found.view(-1, 3).unbind(1)
        found = low + 256 * middle + 65536 * torch.where(high > 127, high - 256, high)
    found = found / 2 ** (8 * width - 1)
    return found.float()
