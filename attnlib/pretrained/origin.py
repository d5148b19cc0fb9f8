"""Where a model came from: the outside family, and what its config says beside the architecture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnlib.errors import CheckpointError
from attnlib.pretrained.files import has_file, read_json, write_json

ORIGIN = "origin.json"
# what shapes no tensor and no forward of ours, yet is lost where it is not handed on
BESIDE = frozenset({
    "bos_token_id", "cls_token_id", "decoder_start_token_id", "eos_token_id", "finetuning_task", "forced_bos_token_id",
    "forced_eos_token_id", "id2label", "is_encoder_decoder", "label2id", "mask_token_id", "max_position_embeddings",
    "pad_token_id", "prefix", "problem_type", "sep_token_id", "task_specific_params", "tokenizer_class", "unk_token_id",
    "use_cache", "n_positions",
})  # fmt: skip

OF_HEADS = frozenset({"finetuning_task", "id2label", "label2id", "problem_type"})


@dataclass(frozen=True)
class Origin:
    """The family a model was read as, and the keys of its config.json that describe no weights."""

    family: str
    beside: Mapping[str, Any]

    @staticmethod
    def of(family: str, config: Mapping[str, Any]) -> Origin:
        return Origin(family, {key: config[key] for key in sorted(config.keys() & BESIDE)})

    def headless(self) -> Origin:
        """Without what is said of a head's labels, for a model with another."""
        return Origin(self.family, {key: value for key, value in self.beside.items() if key not in OF_HEADS})

    def written(self) -> bytes:
        return write_json({"family": self.family, "config": dict(self.beside)})


def read_origin(folder: Path) -> Origin | None:
    """What `origin.json` of a folder of ours says; None where there is none."""
    if not has_file(folder, ORIGIN):
        return None
    tree = read_json(folder, ORIGIN)
    family, config = tree.get("family"), tree.get("config")
    if not isinstance(family, str) or not isinstance(config, dict):
        raise CheckpointError(str(folder / ORIGIN), "names no family and config", "wish what was written here")
    return Origin.of(family, config)
