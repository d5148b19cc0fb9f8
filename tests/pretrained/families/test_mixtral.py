"""Mixtral: experts by number, and the loss that balances them."""

import pytest
import torch
from foreign_folders import goes_both_ways, refused, rewritten, written

from attnlib.attention.masks import Causal
from attnlib.pretrained import load, read_spec
from attnlib.pretrained.family import HFConfig, family_named
from attnlib.pretrained.tensors import open_tensors

BASE = {"vocab_size": 9, "hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 8}


def test_a_config_says_its_spec_and_the_spec_its_config():
    assert goes_both_ways("mixtral")


def test_what_a_silent_config_means():
    block = family_named("mixtral").spec_from(HFConfig(BASE)).stack.block
    assert (block.mlp.num_experts, block.mlp.top_k, block.mlp.balance) == (8, 2, 0.0)
    assert block.attention.mask == Causal() and block.attention.rotary.base == 1e6 and block.norm.eps == 1e-5


def test_experts_are_stacked_by_number(tmp_path):
    _, folder = written("mixtral", "two of four", tmp_path)
    source, experts = open_tensors(folder), load(folder).stack.blocks[1].mlp.body
    for name, ours in (("w1", experts.gate), ("w2", experts.down), ("w3", experts.up)):
        for e in range(4):
            assert torch.equal(source.read(f"model.layers.1.block_sparse_moe.experts.{e}.{name}.weight"), ours[e])


def test_a_missing_expert_is_named(tmp_path):
    _, folder = written("mixtral", "two of four", tmp_path)
    text = refused(folder, lambda t: t.pop("model.layers.1.block_sparse_moe.experts.2.w3.weight"))
    assert "missing beside its like: model.layers.{i}.block_sparse_moe.experts.{i}.w3.weight (x1)" in text
    assert "top_k" in refused(folder, num_experts_per_tok=9)


@pytest.mark.parametrize("padded", [False, True])
def test_the_balance_of_experts_is_that_of_transformers_in_value_and_gradient(tmp_path, padded):
    hf, folder = written("mixtral", "three of five, window, tied", tmp_path)
    asked = {"output_router_logits": True, "router_aux_loss_coef": 0.02}
    assert read_spec(folder).stack.block.mlp.balance == 0.0 and rewritten(folder, **asked)
    tree = family_named("mixtral").config_from(read_spec(folder))
    assert {key: tree[key] for key in asked} == asked and tree["router_jitter_noise"] == 0.1
    assert read_spec(folder).stack.block.mlp.balance == 0.02
    hf.config.router_jitter_noise = 0.0
    ids, mask = torch.arange(5, 29).view(2, 12), torch.ones(2, 12, dtype=torch.long)
    if padded:
        mask[0, 7:] = 0
    there = hf(ids, attention_mask=mask, output_router_logits=True).aux_loss * 0.02
    ours = load(folder).train()
    for block in ours.stack.blocks:
        assert block.mlp.body.jitter == 0.1
        block.mlp.body.jitter = 0.0
    here = ours(ids, attention_mask=mask).aux["balance"]
    assert torch.allclose(here, there, rtol=1e-5)
    here.backward()
    there.backward()
    for block, theirs in zip(ours.stack.blocks, hf.model.layers):
        wish = theirs.mlp.gate.weight.grad
        assert (block.mlp.body.router.weight.grad - wish).abs().max() <= 1e-4 * wish.abs().max()
