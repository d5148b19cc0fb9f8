"""What is peculiar to GPT-2's files: names without a prefix, stored masks, a cross-attention that we do not build."""

import json

import pytest
import torch

from attnlib.errors import CheckpointError
from attnlib.pretrained import check, export, load, read_spec
from attnlib.pretrained.family import HFConfig, find
from attnlib.pretrained.source import InMemory
from attnlib.pretrained.tensors import SINGLE, open_tensors, write_tensors

TINY = {"model_type": "gpt2", "vocab_size": 31, "n_embd": 12, "n_layer": 2, "n_head": 2, "n_positions": 16}


@pytest.fixture
def folder(tmp_path):
    export(find(HFConfig(TINY)).spec_from(HFConfig(TINY)).build(), tmp_path / "x", "gpt2")
    return tmp_path / "x"


def rewritten(folder, change, **config):
    source = open_tensors(folder)
    tensors = change({name: source.read(name).clone() for name in source.facts})
    write_tensors(folder / SINGLE, InMemory(tensors).facts, tensors.items())
    tree = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**tree, **config}))
    (folder / "manifest.json").unlink(missing_ok=True)
    return folder


@torch.no_grad()
def test_files_without_the_prefix_and_with_stored_masks_are_read(folder):
    ids = torch.tensor([[3, 4, 5]])
    expected = load(folder)(ids).logits
    masks = {"h.1.attn.bias": torch.ones(1, 1, 16, 16), "h.0.attn.masked_bias": torch.tensor(-1e4)}
    rewritten(folder, lambda t: {name.removeprefix("transformer."): x for name, x in t.items()} | masks)
    assert torch.equal(load(folder)(ids).logits, expected)
    assert check(folder).ignored == dict.fromkeys(masks, "a mask, which is ours to make")


def test_the_head_alone_or_beside_the_embedding_is_the_embeddings(folder):
    rewritten(folder, lambda t: {**t, "lm_head.weight": t["transformer.wte.weight"].clone()})
    assert check(folder).ties == (("lm_head.weight", "embedding.token.weight"),)
    rewritten(folder, lambda t: {**t, "lm_head.weight": t["lm_head.weight"] * 2})
    assert check(folder).untied == ("lm_head.weight",) and not read_is_tied(folder)


def read_is_tied(folder):
    return load(folder).spec.head.tied


@pytest.mark.parametrize(("key", "value", "text"), [
    ("add_cross_attention", True, "add_cross_attention: is 'True', wish False"),
    ("activation_function", "mish", "activation_function: is 'mish'"),
    ("n_head", "two", "n_head: is 'two', wish int"),
])  # fmt: skip
def test_what_would_be_another_model_is_refused_by_key(folder, key, value, text):
    rewritten(folder, lambda t: t, **{key: value})
    with pytest.raises(CheckpointError, match=text):
        read_spec(folder)


def test_silent_configs_mean_the_small_model():
    spec = find(HFConfig({"model_type": "gpt2"})).spec_from(HFConfig({"model_type": "gpt2"}))
    assert (spec.d_model, spec.stack.num_layers, spec.stack.block.mlp.d_ff, spec.vocab_size) == (768, 12, 3072, 50257)
    assert spec.stack.block.mlp.activation == "gelu_tanh" and spec.head.tied
