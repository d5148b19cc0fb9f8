"""WAV files of whole numbers (PCM), read through the standard library."""

from __future__ import annotations

import wave
from pathlib import Path

import torch
from torch import Tensor

from attnlib.errors import DataError


def read_wav(path: str | Path) -> tuple[Tensor, int]:
    """(samples [channels, N] float32 in [-1, 1), rate in samples a second) of a PCM file of 8, 16, 24 or 32 bits.

    DataError where the file is no such WAV. What a file ends before its header said is left out.
    """
    try:
        with wave.open(str(path), "rb") as file:
            channels, width, rate = file.getnchannels(), file.getsampwidth(), file.getframerate()
            data = bytearray(file.readframes(file.getnframes()))
    except (wave.Error, EOFError) as error:
        words = str(error) or "it ends within its header"
        raise DataError(str(path), f"is no WAV file of PCM: {words}", "wish one of 8, 16, 24 or 32 bits",
                        "ffmpeg -i FILE -c:a pcm_s16le FILE.wav") from None  # fmt: skip
    if width not in (1, 2, 3, 4) or rate < 1:
        raise DataError(str(path), f"has samples of {8 * width} bits, {rate} a second", "wish 8, 16, 24 or 32 bits")
    whole = len(data) // (width * channels) * channels  # samples of frames that are all there
    return _whole_numbers(data[: whole * width], width).view(-1, channels).T.contiguous(), rate


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
