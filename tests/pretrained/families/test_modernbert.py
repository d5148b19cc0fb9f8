"""ModernBERT: older configs and files, the first layer, and what is refused by key."""

import pytest
import torch

from attnlib.attention.masks import Everything, Window
from attnlib.errors import CheckpointError
from attnlib.pretrained import export, load
from attnlib.pretrained.families.modernbert import ModernBert
from attnlib.pretrained.family import HFConfig, family_named
from attnlib.pretrained.parity import theirs

BASE = {
    "model_type": "modernbert", "architectures": ["ModernBertForMaskedLM"], "vocab_size": 61, "hidden_size": 24,
    "intermediate_size": 20, "num_hidden_layers": 4, "num_attention_heads": 4,
}  # fmt: skip


def spec(**changes):
    return ModernBert().spec_from(HFConfig({**BASE, **changes}))


def test_configs_of_older_files_mean_the_same():
    old = spec(global_attn_every_n_layers=2, global_rope_theta=700.0, local_rope_theta=30.0, local_attention=10)
    new = spec(
        layer_types=["full_attention", "sliding_attention"] * 2, local_attention=10,
        rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": 700.0},
                         "sliding_attention": {"rope_type": "default", "rope_theta": 30.0}},
    )  # fmt: skip
    assert old == new
    attentions = [layer.attention for layer in old.stack.layers]
    assert [a.mask for a in attentions] == [Everything(), Window(before=5, after=5)] * 2
    assert [a.rotary.base for a in attentions] == [700.0, 30.0] * 2


def test_a_silent_config_has_their_windows_and_bases():
    attentions = [layer.attention for layer in spec().stack.layers]
    assert [a.rotary.base for a in attentions] == [160000.0, 10000.0, 10000.0, 160000.0]
    assert attentions[1].mask == Window(before=64, after=64)


def test_only_the_first_attention_is_without_a_norm():
    assert [layer.attention_norm for layer in spec().stack.layers] == [False, True, True, True]


def test_dropout_is_read_at_its_places():
    made = spec(attention_dropout=0.1, mlp_dropout=0.2, embedding_dropout=0.3)
    layer = made.stack.layers[1]
    assert (layer.attention.dropout, layer.dropout, layer.mlp_dropout, layer.mlp.dropout) == (0.1, 0.1, 0.0, 0.2)
    assert made.embedding.dropout == 0.3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_activation": "mish"}, "config.json: hidden_activation: is 'mish'"),
        ({"classifier_pooling": "max"}, "config.json: classifier_pooling: is 'max', wish cls or mean"),
        ({"layer_types": ["full_attention"]}, "config.json: layer_types: names 1 layers, wish 4"),
        ({"layer_types": ["full_attention", "chunked", "x", "y"]}, "layer_types: names 'chunked'"),
    ],
)
def test_what_is_another_model_is_refused_by_key(change, words):
    with pytest.raises(CheckpointError) as caught:
        spec(**change)
    assert words in str(caught.value)


def test_a_model_that_no_config_says_is_refused_by_field():
    made = spec()
    block = made.stack.layers[0].replace(attention_norm=True)
    with pytest.raises(CheckpointError, match=r"model\.stack.* is what no config of modernbert says"):
        ModernBert().config_from(made.replace(stack=made.stack.replace(blocks={}, pattern=(), block=block)))


@pytest.mark.parametrize("sample", ["masked LM", "headless"])
def test_files_with_and_without_the_prefix_are_read(tmp_path, sample):
    pytest.importorskip("transformers")
    from safetensors.torch import load_file, save_file

    family = family_named("modernbert")
    folder = theirs.write(theirs.build(family, family.samples()[sample]), tmp_path / "theirs")
    wanted = load(folder)
    tensors = load_file(folder / "model.safetensors")
    inner = ("embeddings.", "layers.", "final_norm.")
    other = {
        name.removeprefix("model.") if name.startswith("model.") else f"model.{name}" if name.startswith(inner) else name: x
        for name, x in tensors.items()
    }
    assert other.keys() != tensors.keys()
    save_file(other, folder / "model.safetensors")
    ids = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12]])
    with torch.no_grad():
        assert torch.equal(load(folder)(ids).last, wanted(ids).last)


def test_tensors_of_another_family_are_explained(tmp_path):
    model = spec().build()
    export(model, tmp_path / "x", "modernbert")
    text = (tmp_path / "x" / "config.json").read_text()
    text = text.replace("modernbert", "bert").replace("ModernBertForMaskedLM", "BertForMaskedLM")
    (tmp_path / "x" / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"no rule reads: .* \(is this a modernbert checkpoint\?\)"):
        load(tmp_path / "x")
