"""How a folder makes one vector of a text: the files that sentence-transformers writes beside a model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnlib.errors import CheckpointError
from attnlib.models.heads import EmbedHeadSpec, Pooling
from attnlib.pretrained.files import has_file, opened, parse_json, read_json

MODULES, SETTINGS, PROMPTS = "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"
JSON_LIMIT = 1_000_000  # bytes
POOLINGS: dict[str, Pooling] = {"cls": "first", "mean": "mean", "lasttoken": "last"}
FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}


@dataclass(frozen=True)
class SentenceSpec:
    """A sentence embedding: how it is pooled, the most tokens of a text, whether it is lowered, what goes before it."""

    head: EmbedHeadSpec
    max_length: int | None = None
    lower: bool = False
    prompt: str = ""


def sentence_spec_of(folder: str | Path) -> SentenceSpec | None:
    """What modules.json and the files that it names say; None where there is no modules.json.

    CheckpointError for a module or a pooling that is not built here, for it would give other vectors.
    """
    folder = Path(folder)
    if not has_file(folder, MODULES):
        return None
    where = str(folder / MODULES)
    modules = [(str(module.get("type", "")).rpartition(".")[2], str(module.get("path", ""))) for module in _modules(folder)]
    kinds = [kind for kind, _ in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise CheckpointError(where, f"runs {', '.join(kinds) or 'nothing'}",
                              "wish Transformer, Pooling, perhaps Normalize", "others are not built here")  # fmt: skip
    if modules[0][1]:
        raise CheckpointError(where, f"has its model in the folder {modules[0][1]!r}", "wish the model beside it",
                              f"name {folder / modules[0][1]}, whose embedding is then the default")  # fmt: skip
    settings = read_json(folder, SETTINGS) if has_file(folder, SETTINGS) else {}
    return SentenceSpec(
        head=EmbedHeadSpec(pooling=_pooling(folder / modules[1][1]), normalise=len(kinds) == 3),
        max_length=_count(settings.get("max_seq_length"), folder / SETTINGS),
        lower=settings.get("do_lower_case") is True,
        prompt=_prompt(folder),
    )


def _modules(folder: Path) -> list[dict[str, Any]]:
    with opened(folder, MODULES) as (file, size):
        if size > JSON_LIMIT:
            raise CheckpointError(str(folder / MODULES), f"has {size} bytes", f"wish at most {JSON_LIMIT}")
        found = parse_json(file.read(JSON_LIMIT), str(folder / MODULES))
    if not isinstance(found, list) or not all(isinstance(module, dict) for module in found):
        raise CheckpointError(str(folder / MODULES), f"holds {json.dumps(found)[:60]}", "wish a list of modules")
    return found


def _pooling(folder: Path) -> Pooling:
    """1_Pooling/config.json, in today's spelling (pooling_mode) or as one flag a mode."""
    config, where = read_json(folder, "config.json"), str(folder / "config.json")
    told = config.get("pooling_mode")
    modes = [told] if isinstance(told, str) else told if isinstance(told, list) else None
    if modes is None:
        modes = [mode for flag, mode in FLAGS.items() if config.get(flag)] or ["mean"]
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise CheckpointError(f"{where}: pooling_mode", f"is {' and '.join(map(str, modes)) or 'empty'}",
                              f"wish one of {', '.join(POOLINGS)}", "others are not built here")  # fmt: skip
    if config.get("include_prompt") is False:
        raise CheckpointError(f"{where}: include_prompt", "is false", "wish true", "not built here")
    return POOLINGS[modes[0]]


def _prompt(folder: Path) -> str:
    """What the folder puts before every text unless told otherwise."""
    config = read_json(folder, PROMPTS) if has_file(folder, PROMPTS) else {}
    name, prompts = config.get("default_prompt_name"), config.get("prompts") or {}
    if name is None:
        return ""
    if not isinstance(prompts, dict) or not isinstance(prompts.get(name), str):
        raise CheckpointError(f"{folder / PROMPTS}: default_prompt_name", f"is {name!r}", "wish one of its prompts")
    return str(prompts[name])


def _count(value: Any, where: Path) -> int | None:
    if value is not None and (type(value) is not int or value < 1):
        raise CheckpointError(f"{where}: max_seq_length", f"is {value!r}", "wish a whole number from 1")
    return value
