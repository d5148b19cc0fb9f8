"""One vector a text: pooled as the folder says, in the order of the texts, long ones cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import T5, ready
from torch.nn import functional as F

import attnlib
from attnlib.errors import CheckpointError
from attnlib.models.heads import EmbedHeadSpec
from attnlib.pretrained.sentence import SentenceSpec, sentence_spec_of
from attnlib.tasks import Ready, embed, load
from attnlib.tasks.embedding import recipe_of

TEXTS = ["the whale rose and the sea ran high", "sea", "", "of ships and salt", "a"]


def alone(model: Ready, text: str, pooling: str) -> torch.Tensor:
    ids = torch.tensor([model.tokenizer.encode(text, template=True)])
    with torch.no_grad():
        x = (model.model.encode(ids)[0] if hasattr(model.model, "encode") else model.model(ids, head=False)).last[0]
    return {"first": x[0], "last": x[-1], "mean": x.mean(0)}[pooling]


@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
def test_vectors_are_those_of_each_text_alone_in_order(pooling: Any) -> None:
    told: list[tuple[int, int]] = []
    for model in (ready(), ready(T5)):
        spec = SentenceSpec(EmbedHeadSpec(pooling=pooling, normalise=False))
        found = embed(model, TEXTS, spec=spec, budget=20, report=lambda *at: told.append(at))
        wished = torch.stack([alone(model, text, pooling) for text in TEXTS])
        torch.testing.assert_close(found.vectors, wished, atol=1e-5, rtol=1e-5)
        assert told[-1] == (5, 5) and len(told) > 2 and not found.cut and not found.empty
        unit = embed(model, TEXTS, spec=SentenceSpec(EmbedHeadSpec(pooling=pooling))).vectors
        torch.testing.assert_close(unit, F.normalize(wished, dim=-1), atol=1e-5, rtol=1e-5)


def test_the_model_says_how_where_no_file_does() -> None:
    assert recipe_of(ready()).head == EmbedHeadSpec(pooling="mean", normalise=True)
    head = {"kind": "embed", "pooling": "first", "normalise": False}
    model = ready(head=head)
    torch.testing.assert_close(embed(model, TEXTS[:1]).vectors[0], alone(model, TEXTS[0], "first"), atol=1e-5, rtol=1e-5)


def test_long_texts_are_cut_and_told_and_empty_ones_are_zeros() -> None:
    model = ready()
    found = embed(model, ["a" * 70, "b", "a" * 58])  # 60 positions, two of them for the template
    assert found.cut == (0,)
    torch.testing.assert_close(found.vectors[0], found.vectors[2])
    short = embed(model, TEXTS, spec=SentenceSpec(EmbedHeadSpec(), max_length=6, lower=True, prompt="Q: "))
    assert short.cut == (0, 1, 3)
    torch.testing.assert_close(short.vectors[4], F.normalize(alone(model, "q: a", "mean"), dim=0), atol=1e-5, rtol=1e-5)
    bare = embed(ready(framed=False), ["a", ""])
    assert bare.empty == (1,) and not bare.vectors[1].any() and bare.vectors[0].any()
    assert embed(model, []).vectors.shape[0] == 0


MODULES = [{"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"},
           {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]  # fmt: skip
NORMALIZE = {"idx": 2, "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}


def written(folder: Path, modules: Any, pooling: dict[str, Any], **files: dict[str, Any]) -> Path:
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    for name, tree in files.items():
        (folder / f"{name}.json").write_text(json.dumps(tree))
    return folder


@pytest.mark.parametrize(
    ("pooling", "ours"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "first"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False}, "mean"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode": "cls"}, "first"),
        ({}, "mean"),
    ],
)
def test_pooling_is_read_from_the_folder(tmp_path: Path, pooling: dict[str, Any], ours: Any) -> None:
    assert sentence_spec_of(tmp_path) is None
    plain = EmbedHeadSpec(pooling=ours, normalise=False)
    assert sentence_spec_of(written(tmp_path, MODULES, pooling)) == SentenceSpec(plain)
    settings = {"max_seq_length": 9, "do_lower_case": True}
    whole = written(tmp_path, [*MODULES, NORMALIZE], pooling, sentence_bert_config=settings,
                    config_sentence_transformers={"prompts": {"q": "query: "}, "default_prompt_name": "q"})  # fmt: skip
    wished = SentenceSpec(EmbedHeadSpec(pooling=ours), max_length=9, lower=True, prompt="query: ")
    assert sentence_spec_of(whole) == wished and recipe_of(Ready(None, None, whole)) == wished  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("modules", "pooling", "said"),
    [
        ([*MODULES, {**NORMALIZE, "type": "x.Dense"}], {}, "runs Transformer, Pooling, Dense"),
        ([{**MODULES[0], "path": "0_Transformer"}, MODULES[1]], {}, "has its model in the folder '0_Transformer'"),
        (MODULES, {"pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": True}, "is mean and max"),
        (MODULES, {"pooling_mode": "weightedmean"}, "is weightedmean, wish one of cls, mean, lasttoken"),
        (MODULES, {"include_prompt": False}, "include_prompt: is false"),
        ({"a": 1}, {}, "wish a list of modules"),
    ],
)
def test_what_would_give_other_vectors_is_refused(tmp_path: Path, modules: Any, pooling: Any, said: str) -> None:
    with pytest.raises(CheckpointError) as error:
        sentence_spec_of(written(tmp_path, modules, pooling))
    assert said in str(error.value)


def test_a_folder_in_half_precision_is_run_in_float32_unless_asked_otherwise(tmp_path: Path) -> None:
    half = ready(head="embed")
    attnlib.save(half.model.half(), tmp_path / "m", tokenizer=half.tokenizer)
    kinds = [next(load(tmp_path / "m", **more).model.parameters()).dtype for more in ({}, {"dtype": None})]
    assert kinds == [torch.float32, torch.float16]
