"""Numbers and texts as a page carries them: compressed, in base64, in JSON that no token can break out of."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnlib.inspect.maps import Array


def digest(text: str) -> str:
    """The source expression by which a content security policy lets exactly this text run."""
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii") + "'"


def script_json(value: Any) -> str:
    """JSON that may stand in a script element: no `<` to close it with, nothing but ASCII."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def packed(data: bytes) -> str:
    """Bytes compressed (zlib), in base64."""
    return base64.b64encode(zlib.compress(data, 9)).decode("ascii")


def planes(values: Array | NDArray[Any]) -> bytes:
    """Numbers of several bytes as all lowest bytes, then the next ones: the high ones compress."""
    return values.view(np.uint8).reshape(-1, values.itemsize).T.tobytes()


def halves(values: Array) -> str:
    """Numbers as float16."""
    return packed(planes(np.ascontiguousarray(values, dtype="<f2")))


def wholes(values: NDArray[Any]) -> str:
    """Whole numbers of four bytes, -1 among them."""
    return packed(planes(np.ascontiguousarray(values, dtype="<i4")))


def levels(values: Array, peaks: Array, steps: int = 255) -> str:
    """[H, ...] as bytes b of `peak * (b / 255)**2`, so that small weights keep their order; `steps` of them are used."""
    share = np.sqrt(values / np.where(peaks > 0, peaks, 1.0).reshape(-1, *(1,) * (values.ndim - 1)))
    return packed(np.rint(np.rint(steps * share) * (255 / steps)).astype(np.uint8).tobytes())


def rounded(values: Any, digits: int = 6) -> list[Any]:
    """Numbers with so many digits, for JSON."""
    if np.ndim(values) == 0:
        return float(f"{float(values):.{digits}g}")  # type: ignore[return-value]
    return [rounded(value, digits) for value in values]
