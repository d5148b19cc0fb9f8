"""A folder's generation_config.json as plain data: how its model is to write, in transformers' words.

The tree stands on the model as `model.generation` and is written out as it came; what its words mean is the generator's
business.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from attnlib.pretrained.files import has_file, read_json, write_json
from attnlib.pretrained.manifest import Content

GENERATION, OLDER = "generation_config.json", "config.json"
_WORDS = frozenset((  # that config.json carried before the file of their own came
    "bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "max_length", "min_length", "do_sample",
    "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty", "temperature", "top_k", "top_p", "typical_p",
    "repetition_penalty", "length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids",
    "num_return_sequences", "forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values",
    "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens", "forced_decoder_ids",
))  # fmt: skip
_INNER = ("decoder", "generator", "text_config")  # where configs of several parts keep those of the writing one


def read_generation(folder: Path) -> dict[str, Any]:
    """generation_config.json as it stands; without one, what an older config.json says of generation."""
    if has_file(folder, GENERATION):
        return read_json(folder, GENERATION)
    return _of_config(read_json(folder, OLDER)) if has_file(folder, OLDER) else {}


def _of_config(tree: Mapping[str, Any]) -> dict[str, Any]:
    inner = next((part for name in _INNER if isinstance(part := tree.get(name), Mapping)), {})
    found = {name: value for name, value in {**inner, **tree}.items() if name in _WORDS and value is not None}
    if tree.get("force_bos_token_to_be_generated") and "forced_bos_token_id" not in found:
        found["forced_bos_token_id"] = tree.get("bos_token_id")
    return found


def generation_files(model: nn.Module) -> dict[str, Content]:
    """The file of what a model carries, for the folder it is saved to."""
    tree = getattr(model, "generation", None)
    return {GENERATION: write_json(tree)} if tree else {}
