"""Every objective through the whole trainer: what is scored, and fine-tuning from one to the next."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import ADAMW, BLOCK, WORDS, rows, same

from attnlib.errors import CheckpointError, DataError, SpecError
from attnlib.pretrained import read_spec
from attnlib.spec import read
from attnlib.train import Config, TrainResult, train

SELF = {"num_heads": 2}
MLP = {"kind": "dense", "d_ff": 48}
ENCODER = {"num_layers": 1, "block": {"attention": SELF, "mlp": MLP}, "final_norm": "rms", "bias": "t5_relative"}
BERT = {"kind": "encoder", "d_model": 24, "vocab_size": 293, "stack": ENCODER, "head": {"kind": "masked_lm"}}
JUDGE = {**BERT, "head": {"kind": "classify", "num_labels": 2, "pooling": "mean"}}
T5 = {
    "kind": "encoder_decoder",
    "init": {"kind": "xavier"},
    "d_model": 32,
    "vocab_size": 293,
    "decoder_start": 256,
    "encoder": ENCODER,
    "decoder": {**ENCODER, "block": {**BLOCK, "cross": SELF}},
}


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def learn(
    folder: Path, model: dict[str, Any], objective: dict[str, Any], data: dict[str, Any], resume: bool = False, **more: Any
) -> TrainResult:
    section = {"steps": 8, "batch_size": 8, "length": 24, "plot": False, "optimizer": ADAMW, "objective": objective, **more}
    config = read(Config, {"model": model, "data": data, "train": section})
    return train(config, folder=folder, base=folder.parent, resume=resume)


@pytest.fixture
def book(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "book.txt").write_text(WORDS * 10)
    return {"kind": "text", "path": "book.txt"}


@pytest.fixture
def pairs(tmp_path: Path) -> dict[str, Any]:
    words = [a + b for a in "abcd" for b in "efgh"] + ["zap"]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps({"source": w, "target": w[0]}) + "\n" for w in words))
    return {"kind": "jsonl", "path": "pairs.jsonl", "held_out": 4, "hold_out_words": ["zap"]}


@pytest.fixture
def labels(tmp_path: Path) -> dict[str, Any]:
    lines = [{"text": f"{w} {n}", "label": "up" if w == "rise" else "down"} for n in range(12) for w in ("rise", "fall")]
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {"kind": "jsonl", "path": "labels.jsonl", "held_out": 6}


def test_masked_lm_scores_masked_accuracy(tmp_path: Path, book: dict[str, Any]) -> None:
    scores = learn(tmp_path / "run", BERT, {"kind": "masked_lm"}, book).scores
    assert set(scores) == {"eval_loss", "eval_perplexity", "eval_masked_accuracy"}


def test_span_corruption_trains(tmp_path: Path, book: dict[str, Any]) -> None:
    assert learn(tmp_path / "run", T5, {"kind": "span_corruption"}, book).scores["eval_loss"] < 5.6


def test_seq2seq_scores_exact_match_by_generation_on_both_splits(tmp_path: Path, pairs: dict[str, Any]) -> None:
    result = learn(tmp_path / "run", T5, {"kind": "seq2seq"}, pairs, steps=80, evaluate={"every": 40, "rows": 2})
    assert result.scores["eval_exact_match"] == 1.0
    assert result.scores["eval_harder_exact_match"] == 0.0  # letters that were never seen
    assert [row["step"] for row in rows(tmp_path / "run") if "eval_exact_match" in row] == [40, 80]


def test_classification_scores_accuracy_and_f1_and_keeps_its_labels(tmp_path: Path, labels: dict[str, Any]) -> None:
    result = learn(tmp_path / "run", JUDGE, {"kind": "classify"}, labels, steps=40)
    assert result.scores["eval_accuracy"] == result.scores["eval_macro_f1"] == 1.0
    assert result.objective.labels == ("down", "up")
    assert result.model.spec.head.labels == read_spec(result.checkpoint).head.labels == ("down", "up")  # type: ignore[attr-defined]
    again = learn(tmp_path / "run", JUDGE, {"kind": "classify"}, labels, steps=41, resume=True)
    assert again.step == 41


def test_fine_tuning_takes_every_weight_but_a_new_head(tmp_path: Path, book: dict[str, Any], labels: dict[str, Any]) -> None:
    first = learn(tmp_path / "first", BERT, {"kind": "masked_lm"}, book, steps=2)
    init = {"from": str(first.checkpoint), "head": "new"}
    tuned = learn(
        tmp_path / "tuned", JUDGE, {"kind": "classify"}, labels, steps=1, init=init, freeze=["embedding.*", "stack.*"]
    )
    assert same(first.model.stack, tuned.model.stack) and same(first.model.embedding, tuned.model.embedding)
    with pytest.raises(CheckpointError, match=r"head\.\S+.* is not in the model, .*train.init.head: new"):
        learn(tmp_path / "kept", JUDGE, {"kind": "classify"}, labels, init={"from": str(first.checkpoint)})
    wider = {**JUDGE, "d_model": 32}
    with pytest.raises(CheckpointError, match=r"has shape \(\d+.*, the model's has"):
        learn(tmp_path / "wider", wider, {"kind": "classify"}, labels, init=init)


def test_fine_tuning_takes_a_run_beside_the_config_or_in_the_working_directory(
    tmp_path: Path, book: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = {"steps": 1, "init": {"from": "first"}, "freeze": ["stack.*"]}
    first = learn(tmp_path / "first", BERT, {"kind": "masked_lm"}, book, steps=2)
    assert same(first.model.stack, learn(tmp_path / "second", BERT, {"kind": "masked_lm"}, book, **ask).model.stack)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "first").rename(tmp_path / "elsewhere" / "first")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert same(first.model.stack, learn(tmp_path / "third", BERT, {"kind": "masked_lm"}, book, **ask).model.stack)
    (tmp_path / "elsewhere" / "first").rename(tmp_path / "gone")
    with pytest.raises(CheckpointError, match="first: holds no checkpoint, wish a model's folder or the folder of a run"):
        learn(tmp_path / "fourth", BERT, {"kind": "masked_lm"}, book, **ask)


def test_fine_tuning_keeps_a_learned_vocabulary(tmp_path: Path, book: dict[str, Any]) -> None:
    def tuned(name: str, text: dict[str, Any], **more: Any) -> TrainResult:
        section = {"steps": 1, "batch_size": 4, "length": 8, "plot": False, "objective": {"kind": "masked_lm"}, **more}
        config = {"model": BERT, "tokenizer": {"kind": "chars", "unknown": "unk"}, "data": text, "train": section}
        return train(read(Config, config), folder=tmp_path / name, base=tmp_path)

    (tmp_path / "other.txt").write_text("zyx wvu " * 200)
    first, other = tuned("first", book), {"kind": "text", "path": "other.txt", "held_out": 0.2}
    alone, second = tuned("alone", other), tuned("second", other, init={"from": "first"})
    ids = first.tokenizer.encode("zyx")
    assert second.tokenizer.encode("zyx") == ids != alone.tokenizer.encode("zyx")


def test_a_resumed_fine_tuning_does_not_begin_again(tmp_path: Path, book: dict[str, Any]) -> None:
    learn(tmp_path / "first", BERT, {"kind": "masked_lm"}, book, steps=2)
    ask = {"steps": 4, "checkpoint_every": 2, "keep": 3, "init": {"from": "first/step-00000002"}}
    whole = learn(tmp_path / "run", BERT, {"kind": "masked_lm"}, book, **ask)
    shutil.rmtree(tmp_path / "run" / "step-00000004")
    shutil.rmtree(tmp_path / "first")
    assert same(whole.model, learn(tmp_path / "run", BERT, {"kind": "masked_lm"}, book, **ask, resume=True).model)


def test_what_does_not_fit_is_refused_before_anything_is_built(tmp_path: Path, book: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=r"train\.objective: causal_lm trains decoder"):
        learn(tmp_path / "a", BERT, {"kind": "causal_lm"}, book)
    short = {**BERT, "embedding": {"position": {"kind": "learned", "max_length": 16}}}
    with pytest.raises(SpecError, match=r"train\.length: is 24, the model's positions end at 16"):
        learn(tmp_path / "b", short, {"kind": "masked_lm"}, book)
    with pytest.raises(DataError, match="leaves nothing to evaluate on"):
        learn(tmp_path / "c", BERT, {"kind": "masked_lm"}, {**book, "held_out": 0.0}, evaluate={"every": 1})
