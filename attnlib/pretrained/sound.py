"""How a folder makes features of a sound: preprocessor_config.json, or the part of processor_config.json in its place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attnlib.audio import LogMel
from attnlib.errors import CheckpointError
from attnlib.pretrained.files import has_file, read_json
from attnlib.spec import SpecErrors, read

ALONE, TOGETHER, PART = "preprocessor_config.json", "processor_config.json", "feature_extractor"
WORDS = {"feature_size": "channels", "sampling_rate": "rate", "n_fft": "n_fft", "hop_length": "hop",
         "chunk_length": "seconds"}  # fmt: skip
ONLY = {"padding_value": 0, "dither": 0, "do_normalize": False, "padding_side": "right"}  # others would give other features


def front_of(folder: str | Path, default: LogMel) -> LogMel:
    """The log-mel features that a folder's files ask for; `default` for what they do not say.

    CheckpointError for files of other features, and for words whose values are not done here.
    """
    folder = Path(folder)
    where, tree = _read(folder)
    for word, value in ONLY.items():
        if (given := tree.get(word)) is not None and given != value:
            raise CheckpointError(f"{where}: {word}", f"is {given!r}", f"wish {value!r}", "another is not built here")
    said = {ours: tree[word] for word, ours in WORDS.items() if tree.get(word) is not None}
    try:
        return read(LogMel, {**default.model_dump(), **said}, path="")
    except SpecErrors as error:
        fault = error.errors[0]
        name = next((word for word, ours in WORDS.items() if fault.path.endswith(ours)), fault.path)
        raise CheckpointError(f"{where}: {name}", fault.fact, fault.wish) from None


def _read(folder: Path) -> tuple[Path, Mapping[str, Any]]:
    if has_file(folder, ALONE):
        return folder / ALONE, read_json(folder, ALONE)
    if not has_file(folder, TOGETHER):
        return folder / ALONE, {}
    part = read_json(folder, TOGETHER).get(PART, {})
    if not isinstance(part, dict):
        raise CheckpointError(f"{folder / TOGETHER}: {PART}", f"holds a {type(part).__name__}", "wish a JSON object")
    return folder / TOGETHER, part
