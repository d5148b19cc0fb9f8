"""GPT-Neo: its list of layers, windows that count the query, older files, and what is refused by key."""

import pytest
import torch

from attnlib.attention.masks import AllOf, Causal, Window
from attnlib.errors import CheckpointError
from attnlib.pretrained import check, load
from attnlib.pretrained.families.gpt_neo import GPTNeo
from attnlib.pretrained.family import HFConfig, family_named
from attnlib.pretrained.parity import theirs

BASE = {"model_type": "gpt_neo", "vocab_size": 61, "hidden_size": 24, "num_layers": 4, "num_heads": 4}


def spec(**changes):
    return GPTNeo().spec_from(HFConfig({**BASE, "attention_types": [[["global", "local"], 2]], **changes}))


def test_layers_alternate_between_all_and_the_last_tokens_of_a_window():
    masks = [layer.attention.mask for layer in spec(window_size=5).stack.layers]
    assert masks == [Causal(), AllOf(masks=(Causal(), Window(before=4)))] * 2
    assert [layer.attention.scores.scale for layer in spec().stack.layers] == [1.0] * 4
    assert spec(attention_types=[[["global"], 1], [["local", "global", "local"], 1]]).stack == spec().stack


def test_a_silent_config_is_that_of_the_published_models():
    made = GPTNeo().spec_from(HFConfig({"model_type": "gpt_neo"}))
    assert (made.d_model, made.stack.num_layers) == (2048, 24)
    assert made.stack.layers[1].attention.mask == Causal() & Window(before=255)


def test_dropout_is_read_at_its_places():
    made = spec(resid_dropout=0.1, embed_dropout=0.2, attention_dropout=0.3)
    layer = made.stack.layers[0]
    assert (layer.dropout, made.embedding.dropout, layer.attention.dropout) == (0.1, 0.2, 0.3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"attention_types": [[["global", "local"], 3]]}, r"attention_types: names 6 layers, wish num_layers \(4\)"),
        ({"attention_types": [[["global", "sparse"], 2]]}, "attention_types: names 'sparse'"),
        ({"attention_types": [["global", "local"]]}, "attention_types: names"),
        ({"activation_function": "mish"}, "activation_function: is 'mish'"),
    ],
)
def test_what_is_another_model_is_refused_by_key(change, words):
    with pytest.raises(CheckpointError, match=words):
        spec(**change)


def test_windows_of_unlike_sizes_are_what_no_config_says():
    made = spec(window_size=5)
    local = made.stack.blocks["local"]
    wide = local.replace(attention=local.attention.replace(mask=Causal() & Window(before=7)))
    stack = made.stack.replace(blocks={**made.stack.blocks, "wide": wide}, pattern=("global", "local", "global", "wide"))
    with pytest.raises(CheckpointError, match=r"model\.stack.* is what no config of gpt_neo says"):
        GPTNeo().config_from(made.replace(stack=stack))


def test_masks_in_older_files_are_ignored_and_the_prefix_may_be_absent(tmp_path):
    pytest.importorskip("transformers")
    from safetensors.torch import load_file, save_file

    family = family_named("gpt_neo")
    folder = theirs.write(theirs.build(family, family.samples()["alternating"]), tmp_path)
    ids = torch.tensor([[5, 6, 7, 8, 9, 10, 11]])
    with torch.no_grad():
        wanted = load(folder)(ids).logits
    tensors = {name.removeprefix("transformer."): x for name, x in load_file(folder / "model.safetensors").items()}
    masks = {f"h.{i}.attn.attention.bias": torch.ones(1, 1, 40, 40, dtype=torch.bool).tril() for i in range(4)}
    masks["h.0.attn.attention.masked_bias"] = torch.tensor(-1e9)
    save_file({**tensors, **masks}, folder / "model.safetensors")
    assert check(folder).ignored.keys() == masks.keys()
    with torch.no_grad():
        assert torch.equal(load(folder)(ids).logits, wanted)
