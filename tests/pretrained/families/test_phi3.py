"""Phi-3: fused matrices, rotary scaled channel by channel, older spellings of it."""

import pytest
import torch
from foreign_folders import goes_both_ways, refused, rewritten, written

from attnlib.attention.rotary import LongRope
from attnlib.pretrained import load, read_spec
from attnlib.pretrained.family import HFConfig, family_named
from attnlib.pretrained.parity import theirs
from attnlib.pretrained.tensors import open_tensors

LISTS = {"short_factor": [1.0, 1.5, 2.0], "long_factor": [2.0, 4.0, 8.0]}


def test_a_config_says_its_spec_and_the_spec_its_config():
    assert goes_both_ways("phi3")


@pytest.mark.parametrize("name", ["su", "yarn", "longrope"])
def test_older_names_of_longrope_mean_it(tmp_path, name):
    _, folder = written("phi3", "longrope, multi-query", tmp_path)
    wished = read_spec(folder)
    old = rewritten(folder, rope_parameters=..., rope_theta=500.0, rope_scaling={"type": name, **LISTS})
    scaling = read_spec(old).stack.layers[0].attention.rotary.scaling
    assert read_spec(old) == wished and isinstance(scaling, LongRope)
    assert (scaling.original_length, scaling.factor) == (10, 4.0)


def test_the_length_before_scaling_that_stands_outside_outranks_the_one_within():
    rope = {**LISTS, "rope_type": "longrope", "original_max_position_embeddings": 7}
    config = {"vocab_size": 9, "hidden_size": 24, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 4,
              "rope_parameters": rope, "max_position_embeddings": 8192}  # fmt: skip
    for more, wish in (({}, 4096), ({"original_max_position_embeddings": 5}, 5)):
        spec = family_named("phi3").spec_from(HFConfig({**config, **more}))
        assert spec.stack.block.attention.rotary.scaling.original_length == wish


def test_short_and_long_factors_are_chosen_by_the_length_of_each_text(tmp_path):
    hf, folder = written("phi3", "longrope, multi-query", tmp_path)
    ours = load(folder)
    ids = torch.arange(5, 37).view(2, 16)
    with torch.no_grad():
        for length in (10, 11):
            wish, got = hf(ids[:, :length]).logits, ours(ids[:, :length]).logits
            assert (got - wish).abs().max() <= 2e-5 * wish.abs().max()
        short = ours(ids[:, :10]).logits
        mask = torch.ones(2, 16)
        mask[0, 10:] = 0
        assert torch.allclose(ours(ids, attention_mask=mask).logits[0, :10], short[0], atol=1e-5)


def test_fused_matrices_are_split_and_joined_again(tmp_path):
    _, folder = written("phi3", "grouped, window", tmp_path)
    source, model = open_tensors(folder), load(folder)
    fused = source.read("model.layers.1.self_attn.qkv_proj.weight")
    attention = model.stack.blocks[1].attention.body
    assert torch.equal(torch.cat([attention.q.weight, attention.k.weight, attention.v.weight]), fused)
    assert [len(part.weight) for part in (attention.q, attention.k, attention.v)] == [24, 12, 12]


def test_an_odd_number_of_turned_channels_is_refused(tmp_path):
    _, folder = written("phi3", "a part of wide heads", tmp_path)
    rope = {"rope_type": "default", "partial_rotary_factor": 0.8}
    assert "turns an odd number of channels" in refused(folder, rope_parameters=rope)
    assert "rope_type: is 'linear2'" in refused(folder, rope_parameters={"rope_type": "linear2"})


def test_fused_matrices_are_known_in_a_llama_folder(tmp_path):
    _, folder = written("phi3", "grouped, window", tmp_path)
    assert refused(folder, model_type="llama", architectures=["LlamaForCausalLM"]).endswith("(is this a phi3 checkpoint?)")


def test_shards_as_transformers_cuts_them_and_pickles_are_read(tmp_path):
    hf, folder = written("phi3", "grouped, window", tmp_path / "whole")
    with theirs.quietly():
        hf.save_pretrained(tmp_path / "cut", max_shard_size="9KB")
    assert len(list((tmp_path / "cut").glob("model-*.safetensors"))) > 2
    (tmp_path / "pickled").mkdir()
    torch.save(hf.state_dict(), tmp_path / "pickled" / "pytorch_model.bin")
    (tmp_path / "pickled" / "config.json").write_bytes((folder / "config.json").read_bytes())
    ids, wished = torch.tensor([[7, 8, 9]]), load(folder)
    with torch.no_grad():
        for other in ("cut", "pickled"):
            assert torch.equal(load(tmp_path / other)(ids).logits, wished(ids).logits)
