"""What is DistilBERT's own: its keys, dropout after the feed-forward only, a vocabulary that may be its own."""

import pytest
import torch
from foreign_folders import first_logits, folder_of, goes_both_ways, renamed, rewritten

from attnlib.errors import CheckpointError
from attnlib.pretrained import check, load
from attnlib.pretrained.families.distilbert import DistilBert
from attnlib.pretrained.family import HFConfig

torch.set_num_threads(1)
TINY = {**DistilBert.tiny, "model_type": "distilbert", "architectures": ["DistilBertForMaskedLM"]}
DROPOUT = {"dropout": 0.3, "attention_dropout": 0.2}


def spec_of(**keys):
    return DistilBert().spec_from(HFConfig({**TINY, **keys}))


def test_every_config_comes_back():
    assert goes_both_ways("distilbert")


def test_dropout_stands_where_the_published_model_has_it():
    spec = spec_of(**DROPOUT)
    block = spec.stack.block
    assert (spec.embedding.dropout, block.dropout, block.mlp_dropout, block.attention.dropout) == (0.3, 0.0, 0.3, 0.2)
    built = spec.build()
    assert [(b.attention.dropout, b.mlp.dropout) for b in built.stack.blocks] == [(0.0, 0.3)] * 2
    classes = spec_of(architectures=["DistilBertForSequenceClassification"], seq_classif_dropout=0.4, **DROPOUT)
    assert (classes.head.activation, classes.head.dropout, classes.head.hidden_dropout) == ("relu", 0.4, 0.0)
    assert DistilBert().config_from(classes)["seq_classif_dropout"] == 0.4
    answers = spec_of(architectures=["DistilBertForQuestionAnswering"], qa_dropout=0.15)
    assert answers.head.dropout == 0.15 and DistilBert().config_from(answers)["qa_dropout"] == 0.15
    assert spec_of(architectures=["DistilBertForTokenClassification"], **DROPOUT).head.dropout == 0.3
    tree = DistilBert().config_from(spec)
    assert {key: tree[key] for key in DROPOUT} == DROPOUT and "layer_norm_eps" not in tree


def test_a_tie_is_untied_where_the_values_differ(tmp_path):
    folder = folder_of(DistilBert(), tmp_path / "x", **TINY)
    before, table = first_logits(folder), "distilbert.embeddings.word_embeddings.weight"
    rewritten(folder, lambda t: t.update({"vocab_projector.weight": t[table].clone()}))
    assert check(folder).ties and torch.equal(first_logits(folder), before)
    rewritten(folder, lambda t: t["vocab_projector.weight"].mul_(-1.0))
    assert check(folder).untied == ("vocab_projector.weight",) and not load(folder).spec.head.tied
    assert not torch.allclose(first_logits(folder), before)


def test_the_prefix_may_be_missing(tmp_path):
    folder = folder_of(DistilBert(), tmp_path / "x", **TINY)
    before = first_logits(folder)
    assert torch.equal(first_logits(renamed(folder, lambda name: name.removeprefix("distilbert."))), before)


@pytest.mark.parametrize(("key", "value", "text"), [
    ("activation", "mish", "activation: is 'mish'"),
    ("dim", None, "dim: is missing, wish int"),
    ("sinusoidal_pos_embds", "yes", "sinusoidal_pos_embds: is 'yes', wish False or True"),
])  # fmt: skip
def test_a_config_that_we_would_build_otherwise_is_refused_by_key(key, value, text):
    with pytest.raises(CheckpointError) as caught:
        spec_of(**{key: value})
    assert text in str(caught.value)


def test_another_eps_is_what_no_config_says():
    spec = spec_of()
    norm = spec.stack.block.norm.replace(eps=1e-5)
    with pytest.raises(CheckpointError, match=r"embedding.norm.eps|stack.block.norm.eps"):
        DistilBert().config_from(spec.replace(embedding=spec.embedding.replace(norm=norm)))
