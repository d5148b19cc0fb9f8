"""What is ELECTRA's own: an embedding of another width, the generator's and the discriminator's head."""

import pytest
import torch
from foreign_folders import first_logits, folder_of, goes_both_ways, refused, renamed, rewritten

from attnlib.errors import CheckpointError
from attnlib.pretrained import check, load
from attnlib.pretrained.families.electra import Electra
from attnlib.pretrained.family import HFConfig, find

torch.set_num_threads(1)
TINY = {**Electra.tiny, "model_type": "electra", "architectures": ["ElectraForPreTraining"]}


def spec_of(**keys):
    return Electra().spec_from(HFConfig({**TINY, **keys}))


def test_every_config_comes_back():
    assert goes_both_ways("electra")


def test_the_embedding_is_projected_only_where_widths_differ():
    assert spec_of().embedding.d_embedding == 14 and spec_of().build().embedding.project.weight.shape == (24, 14)
    assert spec_of(embedding_size=24).embedding.d_embedding is None
    assert Electra().config_from(spec_of(embedding_size=24))["embedding_size"] == 24
    wide = spec_of(hidden_size=128, num_attention_heads=2, embedding_size=None)  # the published default
    assert wide.embedding.d_embedding is None


def test_the_discriminator_has_the_layers_activation_and_the_generator_gelu():
    assert spec_of(hidden_act="relu").head.activation == "relu"
    assert spec_of(hidden_act="relu", architectures=["ElectraForMaskedLM"]).head.activation == "gelu"
    classes = spec_of(architectures=["ElectraForSequenceClassification"], classifier_dropout=0.3, hidden_act="relu").head
    assert (classes.activation, classes.dropout, classes.hidden_dropout) == ("gelu", 0.3, 0.3)


def test_one_logit_a_token_tells_whether_it_was_replaced(tmp_path):
    folder = folder_of(Electra(), tmp_path / "x", **TINY)
    assert first_logits(folder).shape == (1, 7, 1)
    before = first_logits(folder)
    assert torch.equal(first_logits(renamed(folder, lambda name: name.removeprefix("electra."))), before)


def test_the_generator_is_untied_where_the_values_differ(tmp_path):
    folder = folder_of(Electra(), tmp_path / "x", **{**TINY, "architectures": ["ElectraForMaskedLM"]})
    table = "electra.embeddings.word_embeddings.weight"
    rewritten(folder, lambda t: t.update({"generator_lm_head.weight": -t[table]}))
    assert check(folder).untied == ("generator_lm_head.weight",) and not load(folder).spec.head.tied


def test_a_discriminators_file_is_no_generator(tmp_path):
    folder = folder_of(Electra(), tmp_path / "x", **TINY)
    text = refused(folder, architectures=["ElectraForMaskedLM"])
    assert "no rule reads: discriminator_predictions.dense.bias (x1)" in text and "no tensor for: head.dense.bias" in text


def test_what_is_not_built_is_refused_by_name():
    with pytest.raises(CheckpointError, match="names 'ElectraForCausalLM', wish ElectraForPreTraining"):
        find(HFConfig({**TINY, "architectures": ["ElectraForCausalLM"]}))
    with pytest.raises(CheckpointError, match="embedding_size: is '14', wish int"):
        spec_of(embedding_size="14")
