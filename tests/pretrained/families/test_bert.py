"""What is BERT's own: older names, the prefix that comes and goes, tensors beside the head, refusals by key."""

import os
from pathlib import Path

import pytest
import torch
from foreign_folders import first_logits, folder_of, goes_both_ways, refused, renamed, rewritten

from attnlib.errors import CheckpointError
from attnlib.models.heads import EmbedHeadSpec
from attnlib.pretrained import check, load, new
from attnlib.pretrained.families.bert import Bert
from attnlib.pretrained.family import HFConfig, find
from attnlib.pretrained.tensors import open_tensors

torch.set_num_threads(1)
TINY = {**Bert.tiny, "model_type": "bert"}
SHARED = os.environ.get("ATTNLIB_SHARED")


def written(place, architecture="BertForMaskedLM", **keys):
    return folder_of(Bert(), place, **{**TINY, "architectures": [architecture], **keys})


def test_gamma_and_beta_are_older_names(tmp_path):
    folder = written(tmp_path / "x")
    before = first_logits(folder)
    renamed(folder, lambda n: n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"))
    assert "cls.predictions.transform.LayerNorm.beta" in open_tensors(folder).facts
    assert torch.equal(first_logits(folder), before)


def test_the_prefix_may_be_missing_or_present(tmp_path):
    folder, headless = written(tmp_path / "x"), written(tmp_path / "y", "BertModel")
    before = first_logits(folder)
    assert torch.equal(first_logits(renamed(folder, lambda name: name.removeprefix("bert."))), before)
    before = first_logits(headless)
    assert "pooler.dense.weight" in open_tensors(headless).facts
    assert torch.equal(first_logits(renamed(headless, lambda name: f"bert.{name}")), before)


def test_what_files_carry_beside_the_head_is_ignored_by_name(tmp_path):
    folder = rewritten(written(tmp_path / "x", "BertForPreTraining"), architectures=["BertForMaskedLM"])
    ignored = check(folder).ignored
    assert set(ignored) == {"bert.pooler.dense.weight", "bert.pooler.dense.bias",
                            "cls.seq_relationship.weight", "cls.seq_relationship.bias"}  # fmt: skip
    assert ignored["bert.pooler.dense.bias"] == "of a pooler, which this head does not read"
    rewritten(folder, lambda t: t.update({
        "cls.predictions.decoder.weight": t["bert.embeddings.word_embeddings.weight"].clone(),
        "cls.predictions.decoder.bias": t["cls.predictions.bias"].clone(),
        "bert.embeddings.position_ids": torch.arange(32)[None],
    }))  # fmt: skip
    report = check(folder)
    assert len(report.ties) == 2 and report.ignored["bert.embeddings.position_ids"] == "counts from 0"
    text = refused(folder, lambda t: t["cls.predictions.decoder.weight"].mul_(-1.0))
    assert "cls.predictions.decoder.weight: differs from the tensor it is tied to" in text


def test_both_logits_of_the_pre_training_head_come_of_one_forward(tmp_path):
    model = load(written(tmp_path / "x", "BertForPreTraining"))
    ids = torch.randint(5, 61, (2, 7))
    with torch.no_grad():
        out = model(ids, at=torch.tensor([[True] + [False] * 6] * 2))
    assert out.logits.shape == (2, 61) and out.text_logits.shape == (2, 2) and out.pooled.shape == (2, 24)


def test_a_file_without_its_head_is_refused_and_a_new_head_is_asked_for(tmp_path):
    folder = written(tmp_path / "x", "BertModel")
    assert load(folder, head=new({"kind": "classify", "num_labels": 3})).spec.head.num_labels == 3
    assert "no tensor for: head.project.bias" in refused(folder, architectures=["BertForSequenceClassification"])


@pytest.mark.parametrize(("key", "value", "text"), [
    ("is_decoder", True, "is_decoder: is 'True', wish False"),
    ("add_cross_attention", True, "add_cross_attention: is 'True'"),
    ("position_embedding_type", "relative_key", "position_embedding_type: is 'relative_key', wish absolute"),
    ("hidden_act", "mish", "hidden_act: is 'mish'"),
    ("tie_word_embeddings", False, "tie_word_embeddings: is 'False', wish True"),
    ("hidden_dropout_prob", "0.1", "hidden_dropout_prob: is '0.1', wish float"),
    ("problem_type", "ranking", "problem_type: is 'ranking'"),
])  # fmt: skip
def test_a_config_that_we_would_build_otherwise_is_refused_by_key(key, value, text):
    head = "BertForSequenceClassification" if key == "problem_type" else "BertForMaskedLM"
    with pytest.raises(CheckpointError) as caught:
        Bert().spec_from(HFConfig({**TINY, "architectures": [head], key: value}))
    assert text in str(caught.value)


def test_every_config_comes_back():
    assert goes_both_ways("bert")


def test_heads_that_are_not_built_are_refused_by_name():
    with pytest.raises(CheckpointError, match="names 'BertForMultipleChoice', wish BertForMaskedLM or BertModel"):
        find(HFConfig({**TINY, "architectures": ["BertForMultipleChoice"]}))


def test_dropout_is_read_at_its_sites_and_said_again():
    keys = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.2, "classifier_dropout": 0.4,
            "id2label": {"0": "no", "1": "yes"}, "problem_type": "multi_label_classification"}  # fmt: skip
    config = {**TINY, **keys, "architectures": ["BertForSequenceClassification"]}
    spec = Bert().spec_from(HFConfig(config))
    block = spec.stack.block
    assert (spec.embedding.dropout, block.dropout, block.attention.dropout, spec.head.dropout) == (0.3, 0.3, 0.2, 0.4)
    assert {key: Bert().config_from(spec)[key] for key in keys} == keys
    assert Bert().spec_from(HFConfig(Bert().config_from(spec))) == spec
    default = Bert().spec_from(HFConfig({**config, "classifier_dropout": None}))
    assert default.head.dropout == 0.3  # that of the layers


def test_a_model_that_no_bert_config_says_is_not_exported():
    spec = Bert().spec_from(HFConfig({**TINY, "architectures": ["BertForMaskedLM"]}))
    block = spec.stack.block
    for changed, path in (
        (spec.replace(stack=spec.stack.replace(block=block.replace(placement="pre"))), "stack.block.placement"),
        (spec.replace(stack=spec.stack.replace(final_norm=block.norm)), "stack.final_norm"),
        (spec.replace(embedding=spec.embedding.replace(scale="sqrt")), "embedding.scale"),
        (spec.replace(embedding=spec.embedding.replace(position=None)), "embedding.position: is missing, wish learned"),
        (spec.replace(head=spec.head.replace(bias=False)), "head.bias"),
        (spec.replace(head=EmbedHeadSpec()), "head: is of kind 'embed', which no class of bert has"),
    ):
        with pytest.raises(CheckpointError, match=path):
            Bert().config_from(changed)


def test_the_real_minilm_gives_its_known_embeddings():
    if SHARED is None or not (Path(SHARED) / "models" / "minilm").is_dir():
        pytest.skip("ATTNLIB_SHARED names no folder with models/minilm")
    tokenizers, folder = pytest.importorskip("tokenizers"), Path(SHARED) / "models" / "minilm"
    text = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    text.no_padding()
    model = load(folder, dtype=torch.float32)

    def vector(sentence):
        with torch.no_grad():
            return torch.nn.functional.normalize(model(torch.tensor([text.encode(sentence).ids])).last.mean(1), dim=-1)[0]

    cat, kitten = vector("The cat sat on the mat."), vector("A kitten rested on the rug.")
    assert torch.allclose(cat[:5], torch.tensor([0.1302, -0.0158, -0.0367, 0.0580, -0.0598]), atol=1e-4)
    assert abs(float(cat @ kitten) - 0.6125) < 1e-4
    assert abs(float(cat @ vector("Stocks fell sharply today.")) - 0.0777) < 1e-4
