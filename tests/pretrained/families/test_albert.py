"""What is ALBERT's own: groups of layers with one set of weights, a narrow embedding, its dropout and its heads."""

import pytest
import torch
from foreign_folders import first_logits, folder_of, goes_both_ways, refused, renamed, rewritten

from attnlib.errors import CheckpointError
from attnlib.models.stack import SharingSpec
from attnlib.pretrained import check, load
from attnlib.pretrained.families.albert import Albert
from attnlib.pretrained.family import HFConfig
from attnlib.pretrained.tensors import open_tensors

torch.set_num_threads(1)
TINY = {**Albert.tiny, "model_type": "albert", "architectures": ["AlbertForMaskedLM"]}
GROUPED = {"num_hidden_layers": 4, "num_hidden_groups": 2, "inner_group_num": 2}


def spec_of(**keys):
    return Albert().spec_from(HFConfig({**TINY, **keys}))


def test_every_config_comes_back():
    assert goes_both_ways("albert")


def test_layers_share_their_weights_in_groups_of_inner_layers():
    stack = spec_of(**GROUPED).stack
    assert (stack.num_layers, stack.sharing) == (8, SharingSpec(groups=2, cycle=2))
    assert stack.sharing.owners(8) == (0, 1, 0, 1, 4, 5, 4, 5)
    tree = Albert().config_from(spec_of(**GROUPED))
    assert {key: tree[key] for key in GROUPED} == GROUPED
    assert spec_of().stack.sharing.owners(2) == (0, 0)


def test_each_weight_stands_once_in_the_file(tmp_path):
    folder = folder_of(Albert(), tmp_path / "x", **{**TINY, **GROUPED})
    layers = {name.split("albert_layer_groups.")[1].split(".attention")[0] for name in open_tensors(folder).facts
              if name.endswith("attention.query.weight")}  # fmt: skip
    assert layers == {f"{group}.albert_layers.{inner}" for group in (0, 1) for inner in (0, 1)}
    model = load(folder)
    blocks = model.stack.blocks
    assert blocks[6].mlp.body.up.weight is blocks[4].mlp.body.up.weight is not blocks[0].mlp.body.up.weight


def test_what_the_feed_forward_adds_has_no_dropout():
    keys = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.2, "classifier_dropout_prob": 0.4}
    spec = spec_of(architectures=["AlbertForSequenceClassification"], **keys)
    block = spec.stack.block
    assert (block.dropout, block.mlp_dropout, block.attention.dropout, spec.head.dropout) == (0.3, 0.0, 0.2, 0.4)
    assert {key: Albert().config_from(spec)[key] for key in keys} == keys
    both = spec_of(architectures=["AlbertForPreTraining"], **keys)
    assert both.head.text.dropout == 0.4 and Albert().config_from(both)["classifier_dropout_prob"] == 0.4
    silent = Albert().spec_from(HFConfig({k: v for k, v in TINY.items() if k != "hidden_act"}))
    assert silent.stack.block.dropout == 0.0 and silent.stack.block.mlp.activation == "gelu_tanh"


def test_what_files_carry_beside_the_head_is_ignored_by_name(tmp_path):
    folder = folder_of(Albert(), tmp_path / "x", **{**TINY, "architectures": ["AlbertForPreTraining"]})
    rewritten(folder, architectures=["AlbertForMaskedLM"])
    assert set(check(folder).ignored) == {"albert.pooler.weight", "albert.pooler.bias",
                                          "sop_classifier.classifier.weight", "sop_classifier.classifier.bias"}  # fmt: skip
    before = first_logits(folder)
    assert torch.equal(first_logits(renamed(folder, lambda name: name.removeprefix("albert."))), before)


def test_a_missing_group_is_named(tmp_path):
    folder = folder_of(Albert(), tmp_path / "x", **{**TINY, **GROUPED})
    gone = "albert.encoder.albert_layer_groups.1.albert_layers.0.ffn.bias"
    assert "no tensor for: stack.blocks.{i}.mlp.body.up.bias (x1)" in refused(folder, lambda t: t.pop(gone))


@pytest.mark.parametrize(("change", "text"), [
    ({"num_hidden_layers": 3, "num_hidden_groups": 2}, "num_hidden_groups: is 2, wish a divisor of num_hidden_layers (3)"),
    ({"num_hidden_groups": 0}, "num_hidden_groups: is 0"),
    ({"embedding_size": 24}, "embedding_size: is hidden_size (24), wish another width"),
    ({"tie_word_embeddings": False}, "tie_word_embeddings: is 'False', wish True"),
    ({"architectures": ["AlbertForPreTraining"], "num_labels": 3}, "id2label: is of more than two labels"),
])  # fmt: skip
def test_a_config_that_we_would_build_otherwise_is_refused_by_key(change, text):
    with pytest.raises(CheckpointError) as caught:
        spec_of(**change)
    assert text in str(caught.value)


def test_layers_of_their_own_are_what_no_albert_config_says():
    spec = spec_of()
    with pytest.raises(CheckpointError, match=r"model.stack.sharing: is missing, wish sharing"):
        Albert().config_from(spec.replace(stack=spec.stack.replace(sharing=None)))
