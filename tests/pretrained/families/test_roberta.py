"""What is RoBERTa's and XLM-R's own: positions behind the padding's id, no pooler before the classes."""

import pytest
import torch
from foreign_folders import first_logits, folder_of, goes_both_ways, refused, renamed, rewritten

from attnlib.errors import CheckpointError
from attnlib.nn.embeddings import LearnedSpec
from attnlib.pretrained import check
from attnlib.pretrained.families.bert import Bert
from attnlib.pretrained.families.roberta import Roberta
from attnlib.pretrained.families.xlm_roberta import XLMRoberta
from attnlib.pretrained.family import HFConfig, find

torch.set_num_threads(1)
TINY = {**Roberta.tiny, "model_type": "roberta", "architectures": ["RobertaForMaskedLM"]}


def spec_of(**keys):
    return Roberta().spec_from(HFConfig({**TINY, **keys}))


@pytest.mark.parametrize("family", ["roberta", "xlm_roberta"])
def test_every_config_comes_back(family):
    assert goes_both_ways(family)


def test_positions_begin_behind_the_padding():
    assert spec_of().embedding.position == LearnedSpec(max_length=30, offset=2)
    assert spec_of(pad_token_id=4).embedding.position == LearnedSpec(max_length=27, offset=5)
    tree = Roberta().config_from(spec_of(pad_token_id=4))
    assert (tree["pad_token_id"], tree["max_position_embeddings"]) == (4, 32)


def test_the_classes_have_dropout_before_both_of_their_layers():
    head = spec_of(architectures=["RobertaForSequenceClassification"], classifier_dropout=0.3).head
    assert (head.dropout, head.hidden_dropout, head.activation, head.pooling) == (0.3, 0.3, "tanh", "first")


def test_a_masked_lm_always_has_gelu_in_its_head():
    spec = spec_of(hidden_act="relu")
    assert spec.head.activation == "gelu" and spec.stack.block.mlp.activation == "relu"


def test_a_pooler_beside_another_head_and_stored_position_numbers_are_ignored(tmp_path):
    folder = folder_of(Roberta(), tmp_path / "x", **TINY)
    before = first_logits(folder)
    extra = {"roberta.pooler.dense.weight": torch.ones(24, 24), "roberta.pooler.dense.bias": torch.ones(24),
             "roberta.embeddings.position_ids": torch.arange(32)[None]}  # fmt: skip
    rewritten(folder, lambda t: t.update(extra))
    assert set(check(folder).ignored) == set(extra) and torch.equal(first_logits(folder), before)
    assert torch.equal(first_logits(renamed(folder, lambda name: name.removeprefix("roberta."))), before)


def test_a_missing_bias_of_the_vocabulary_is_named(tmp_path):
    folder = folder_of(Roberta(), tmp_path / "x", **TINY)
    assert "no tensor for: head.vocabulary.bias" in refused(folder, lambda t: t.pop("lm_head.bias"))


def test_the_bias_may_be_stored_under_the_decoders_name(tmp_path):
    folder = folder_of(Roberta(), tmp_path / "x", **TINY)
    before = first_logits(folder)
    renamed(folder, lambda name: name.replace("lm_head.bias", "lm_head.decoder.bias"))
    assert torch.equal(first_logits(folder), before)


def test_a_bert_under_a_robertas_config_is_named(tmp_path):
    bert = {**TINY, "model_type": "bert", "architectures": ["BertForMaskedLM"]}
    text = refused(folder_of(Bert(), tmp_path / "x", **bert), model_type="roberta", architectures=["RobertaForMaskedLM"])
    assert "(is this a bert checkpoint?)" in text


@pytest.mark.parametrize(("key", "value", "text"), [
    ("is_decoder", True, "is_decoder: is 'True', wish False"),
    ("tie_word_embeddings", False, "tie_word_embeddings: is 'False', wish True"),
    ("pad_token_id", "1", "pad_token_id: is '1', wish int"),
    ("max_position_embeddings", 2, "max_length"),
])  # fmt: skip
def test_a_config_that_we_would_build_otherwise_is_refused_by_key(key, value, text):
    with pytest.raises(ValueError) as caught:
        spec_of(**{key: value})
    assert text in str(caught.value)


def test_the_classes_of_one_are_not_those_of_the_other():
    with pytest.raises(CheckpointError, match="names 'RobertaForMaskedLM', wish XLMRobertaForMaskedLM"):
        find(HFConfig({**TINY, "model_type": XLMRoberta.model_types[0]}))
