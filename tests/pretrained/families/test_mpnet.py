"""What is MPNet's own: one relative bias of 32 buckets for all layers, positions behind the padding 1."""

import pytest
import torch
from foreign_folders import first_logits, folder_of, goes_both_ways, refused, renamed

from attnlib.attention.biases import T5RelativeSpec
from attnlib.errors import CheckpointError
from attnlib.nn.embeddings import LearnedSpec
from attnlib.pretrained.families.mpnet import MPNet
from attnlib.pretrained.family import HFConfig

torch.set_num_threads(1)
TINY = {**MPNet.tiny, "model_type": "mpnet", "architectures": ["MPNetForMaskedLM"]}
KIND = ("model_type", "architectures")


def spec_of(**keys):
    return MPNet().spec_from(HFConfig({**TINY, **keys}))


def test_every_config_comes_back():
    assert goes_both_ways("mpnet")


def test_all_layers_share_one_relative_bias_of_both_sides():
    spec = spec_of(pad_token_id=3)
    assert spec.stack.bias == T5RelativeSpec(buckets=32, max_distance=128, both=True)
    assert spec.embedding.position == LearnedSpec(max_length=30, offset=2) and spec.embedding.types == 0  # not by the key
    assert [name for name, _ in spec.build().named_parameters() if name.startswith("stack.bias")] == ["stack.bias.table"]


def test_the_bias_is_what_tells_mpnet_from_its_kin(tmp_path):
    folder, bias = folder_of(MPNet(), tmp_path / "x", **TINY), "mpnet.encoder.relative_attention_bias.weight"
    text = refused(folder, model_type="roberta", architectures=["RobertaForMaskedLM"])
    assert "(is this a mpnet checkpoint?)" in text
    assert "no tensor for: stack.bias.table" in refused(folder, lambda t: t.pop(bias), **{k: TINY[k] for k in KIND})


def test_the_prefix_may_be_missing(tmp_path):
    folder = folder_of(MPNet(), tmp_path / "x", **TINY)
    before = first_logits(folder)
    assert torch.equal(first_logits(renamed(folder, lambda name: name.removeprefix("mpnet."))), before)


def test_classes_and_tags_have_the_dropout_of_the_layers():
    keys = {"hidden_dropout_prob": 0.3, "classifier_dropout": 0.4}
    classes = spec_of(architectures=["MPNetForSequenceClassification"], **keys).head
    assert (classes.dropout, classes.hidden_dropout, classes.activation) == (0.3, 0.3, "tanh")
    assert spec_of(architectures=["MPNetForTokenClassification"], **keys).head.dropout == 0.3


@pytest.mark.parametrize(("key", "value", "text"), [
    ("relative_attention_num_buckets", 64, "relative_attention_num_buckets: is '64', wish 32"),
    ("tie_word_embeddings", False, "tie_word_embeddings: is 'False', wish True"),
])  # fmt: skip
def test_a_config_that_we_would_build_otherwise_is_refused_by_key(key, value, text):
    with pytest.raises(CheckpointError) as caught:
        spec_of(**{key: value})
    assert text in str(caught.value)
