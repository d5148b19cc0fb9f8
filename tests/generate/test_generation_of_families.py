"""Every family that writes: token for token what transformers generates, padded, and with its folder's rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from attnlib.generate import generate
from attnlib.pretrained import load
from attnlib.pretrained.family import Family, families
from attnlib.pretrained.parity import theirs

pytest.importorskip("transformers")
PROMPTS = [[9, 8, 11, 12, 9, 8, 40, 33, 17], [13], [21, 9, 34, 10]]
NEW = 10
RULES = {
    "repetition_penalty": 1.4, "no_repeat_ngram_size": 2, "min_new_tokens": 4, "suppress_tokens": [5, 14, 22],
    "begin_suppress_tokens": [6, 30, 31], "forced_eos_token_id": 19,
}  # fmt: skip


def writers() -> dict[str, Family]:
    ours = [family for family in families() if type(family).__module__.startswith("attnlib.")]
    return {family.name: family for family in ours if "lm" in family.architectures.values()}


def pair(family: Family, folder: Path, rules: dict[str, Any]) -> tuple[Any, Any]:
    """Their tiny model with peaked logits, which ends at two ids and has these rules, and ours of its folder."""
    sample = next(sample for sample in family.samples().values() if family.architectures[sample.architecture] == "lm")
    if "num_decoder_layers" in sample.config:  # of more than the encoder's their generation makes no caches
        sample = sample._replace(config={**sample.config, "num_decoder_layers": sample.config["num_layers"]})
    model = theirs.build(family, sample, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.dim() > 1:
                parameter *= 2.5
    config = model.generation_config
    pad = config.pad_token_id if config.pad_token_id is not None else 0
    quiet = [*rules.get("suppress_tokens", []), pad]  # what rows of unlike lengths hold there, and not here
    own = {"eos_token_id": [15, 19], "pad_token_id": pad, "forced_eos_token_id": None}
    for word, value in {**own, **rules, "suppress_tokens": quiet}.items():
        setattr(config, word, value)
    if rules:
        config.forced_bos_token_id = 25 if model.config.is_encoder_decoder else None
    theirs.write(model, folder)
    return model, load(folder)


def source(model: Any, ours: Any) -> dict[str, torch.Tensor]:
    """What both are asked: features, sources padded on the right, prompts padded on the left."""
    if ours.spec.kind == "encoder_decoder" and ours.features is not None:
        shape = (len(PROMPTS), ours.features.channels, ours.features.stride * ours.max_source_length)
        return {"input_features": torch.randn(shape, generator=torch.Generator().manual_seed(4))}
    width, left = max(map(len, PROMPTS)), ours.spec.kind == "decoder"
    pads = [[model.generation_config.pad_token_id] * (width - len(row)) for row in PROMPTS]
    ids = torch.tensor([[*pad, *row] if left else [*row, *pad] for row, pad in zip(PROMPTS, pads)])
    mask = torch.tensor([[0] * len(pad) + [1] * len(row) if left else [1] * len(row) + [0] * len(pad)
                         for row, pad in zip(PROMPTS, pads)])  # fmt: skip
    return {"input_ids": ids, "attention_mask": mask}


def their_ids(model: Any, inputs: dict[str, torch.Tensor], beams: int) -> list[list[int]]:
    with theirs.quietly(), torch.no_grad():
        made = model.generate(**inputs, num_beams=beams, do_sample=False, max_new_tokens=NEW).tolist()
    skip = 0 if "input_features" in inputs else 1 if model.config.is_encoder_decoder else inputs["input_ids"].shape[1]
    return [until(row[skip:]) for row in made]


def until(ids: list[int]) -> list[int]:
    """As far as the first eos, which those that listen leave out."""
    return ids[: next((place for place, token in enumerate(ids) if token in (15, 19)), len(ids))]


@pytest.mark.parametrize("rules", [{}, RULES], ids=["free", "rules"])
@pytest.mark.parametrize("name", writers())
def test_greedy_and_beams_say_what_transformers_says(name: str, rules: dict[str, Any], tmp_path: Path) -> None:
    model, ours = pair(writers()[name], tmp_path, rules)
    inputs = source(model, ours)
    prompts = inputs.get("input_features", PROMPTS)
    for beams in (1, 4):
        found = generate(ours, prompts, num_beams=beams, max_new_tokens=NEW)
        assert [until([*one.ids]) for one in found] == their_ids(model, inputs, beams)
        if rules:
            assert len({token for one in found for token in one.ids}) > 5, "the example must be one that says something"
