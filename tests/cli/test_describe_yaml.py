"""The config that trains a folder's architecture from scratch, and what can be done with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_commands import told

import attnlib
from attnlib import tasks
from attnlib.cli.common import model_folder
from attnlib.config import parse_tree
from attnlib.pretrained import export
from attnlib.pretrained.family import families, family_named
from attnlib.pretrained.parity import theirs
from attnlib.pretrained.tensors import open_tensors
from attnlib.spec import read
from attnlib.text.byte_level import ByteTokenizer
from attnlib.train import Config, train

Capture = pytest.CaptureFixture[str]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "calm", "storm", "sea", "the", "##s", "good", "bad"]


@pytest.mark.parametrize("name", sorted({family.name for family in families()}))
def test_its_model_built_and_saved_back_has_the_same_keys(name: str, tmp_path: Path, capsys: Capture) -> None:
    pytest.importorskip("transformers")
    family = family_named(name)
    samples = list(family.samples().values())
    for number, sample in enumerate((samples[0], samples[-1])):
        folder = theirs.write(theirs.build(family, sample), tmp_path / f"theirs{number}")
        tree = parse_tree(told(capsys, "describe", folder, "--yaml"))[0]
        export(attnlib.build(tree), tmp_path / f"ours{number}", name)
        made, wished = open_tensors(tmp_path / f"ours{number}"), open_tensors(folder)
        ignored = family.table(attnlib.build(tree).spec).plan(wished.facts).ignored  # computed, as some files carry it
        assert {key: fact.shape for key, fact in made.facts.items()} == {
            key: fact.shape for key, fact in wished.facts.items() if key not in ignored
        }


def foreign(folder: Path, vocabulary: list[str] = VOCABULARY) -> Path:
    """A tiny encoder as transformers saves it, with its vocabulary."""
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(vocab_size=len(vocabulary), hidden_size=12, num_hidden_layers=2, num_attention_heads=2,
                                     intermediate_size=20, max_position_embeddings=24)  # fmt: skip
    torch.manual_seed(0)
    theirs.write(transformers.BertForMaskedLM(config), folder)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    transformers.BertTokenizer.from_pretrained(folder).save_pretrained(folder)
    return folder


def exported_to_transformers(place: Path, capsys: Capture) -> None:
    """What was fine-tuned goes back as the family it began with, and classifies a padded batch there alike."""
    transformers = pytest.importorskip("transformers")
    told(capsys, "export", place / "run", place / "back")
    tokenizer = transformers.AutoTokenizer.from_pretrained(place / "back")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(place / "back").eval()
    texts = ["the calm seas", "a storm"]
    with torch.no_grad():
        found = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits.softmax(-1)
    assert tokenizer.mask_token == "[MASK]" and model.config.id2label == {0: "bad", 1: "good"}
    for row, labels in zip(found.tolist(), tasks.classify(tasks.load(model_folder(str(place / "run"))), texts)):
        assert dict(labels) == pytest.approx(dict(zip(("bad", "good"), row)), abs=1e-5)


def test_it_trains_as_it_stands(tmp_path: Path, capsys: Capture) -> None:
    folder = foreign(tmp_path / "bert", [*VOCABULARY, *LETTERS[1:], *(f"##{c}" for c in LETTERS if c != "s")])
    (tmp_path / "config.yaml").write_text(told(capsys, "describe", folder, "--yaml", "train.steps=2", "train.batch_size=2"))
    more = ["train.plot=false", "data.held_out=0.001"]
    out = told(capsys, "train", tmp_path / "config.yaml", "--folder", tmp_path / "run", *more)
    assert "eval_masked_accuracy" in out
    assert told(capsys, "describe", tmp_path / "config.yaml", "--yaml").startswith("format: 1\nmodel:\n  kind: encoder")


def test_it_says_what_it_leaves_open(tmp_path: Path, capsys: Capture) -> None:
    folder = foreign(tmp_path / "bert")
    (folder / "tokenizer.json").unlink()
    text = told(capsys, "describe", folder, "--yaml")
    assert text.startswith(f"# {folder} has an older vocabulary") and "objective: {kind: masked_lm}" in text
    labelled = told(capsys, "describe", folder, "--yaml", "model.head={kind: classify, num_labels: 2, labels: [bad, good]}")
    assert "# texts.csv stands for your own texts with labels (bad, good)" in labelled and "kind: csv" in labelled
    headless = told(capsys, "describe", folder, "--yaml", "model.head=none", "train.steps=7")
    assert "# no objective trains this model as it is: model.head is none: use lm or masked_lm" in headless
    assert "steps: 7" in headless and "objective" not in parse_tree(headless)[0]["train"]
    (folder / "vocab.txt").unlink()
    bare = told(capsys, "describe", folder, "--yaml")
    assert "# no tokenizer lies there: bytes" in bare and "293 ids" in bare


def test_our_own_folder_gets_what_its_config_lacks(tmp_path: Path, capsys: Capture) -> None:
    model = attnlib.build("tiny/t5", "model.d_model=16", "model.encoder.num_layers=1", "model.decoder.num_layers=1")
    attnlib.save(model, tmp_path / "t5", tokenizer=ByteTokenizer())
    tree = parse_tree(told(capsys, "describe", tmp_path / "t5", "--yaml"))[0]
    assert tree["train"]["objective"] == {"kind": "seq2seq"} and tree["data"]["path"] == "question_formation.jsonl"
    assert read(Config, tree).model == model.spec


@pytest.mark.parametrize("named", [True, False])
def test_fine_tuning_begins_with_a_public_folder_its_vocabulary_and_a_new_head(
    named: bool, tmp_path: Path, capsys: Capture
) -> None:
    folder = foreign(tmp_path / "bert")
    lines = [{"text": f"the sea a {w}", "label": label} for w, label in (("calm", "good"), ("storm", "bad"))] * 6
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    overrides = ["model.head={kind: classify, num_labels: 2}", "train.init={from: bert, head: new}", "train.steps=30",
                 "train.optimizer.lr=0.01", "data={kind: jsonl, path: rows.jsonl, held_out: 2}", "train.plot=false",
                 "train.length=12", "train.evaluate={}"]  # fmt: skip
    tree: dict[str, Any] = parse_tree(told(capsys, "describe", folder, "--yaml", *overrides))[0]
    if not named:  # then the vocabulary is that of the weights, too
        del tree["tokenizer"]
    result = train(read(Config, tree), folder=tmp_path / "run", base=tmp_path)
    assert result.tokenizer.encode("the calm seas", template=True) == [2, 9, 6, 8, 10, 3]
    assert result.model.spec.head.labels == ("bad", "good") and result.scores["eval_accuracy"] == 1.0
    if named:
        exported_to_transformers(tmp_path, capsys)
    frozen = {**tree, "train": {**tree["train"], "steps": 1, "freeze": ["embedding.*", "stack.*"]}}
    tuned = train(read(Config, frozen), folder=tmp_path / "frozen", base=tmp_path).model
    whole = attnlib.load(folder)
    assert all(torch.equal(a, b) for a, b in zip(tuned.stack.parameters(), whole.stack.parameters(), strict=True))
