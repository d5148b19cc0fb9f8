"""What is peculiar to GPT-NeoX's files: two names of the head, older rotary keys, stored masks."""

import pytest
import torch

from attnlib.errors import CheckpointError
from attnlib.pretrained.family import HFConfig, family_named

TINY = {"model_type": "gpt_neox", "vocab_size": 31, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 20}  # fmt: skip


def spec(**changes):
    return family_named("gpt_neox").spec_from(HFConfig({**TINY, **changes}))


def test_older_rotary_keys_mean_the_same():
    new = spec(rope_parameters={"rope_theta": 500.0, "partial_rotary_factor": 0.5, "rope_type": "default"})
    assert spec(rotary_emb_base=500, rotary_pct=0.5) == new
    assert new.stack.block.attention.rotary.width(8) == 4 and spec().stack.block.attention.rotary.fraction == 0.25


def test_both_names_of_the_head_are_read_and_todays_is_written():
    model, table = spec().build(), family_named("gpt_neox").table(spec())
    theirs = table.save(dict(model.state_dict()))
    assert "embed_out.weight" in theirs
    other = {name.replace("embed_out", "lm_head"): tensor for name, tensor in theirs.items()}
    assert torch.equal(table.load(other)["head.vocabulary.weight"], model.head.vocabulary.weight)


def test_q_k_and_v_lie_by_head():
    model, table = spec().build(), family_named("gpt_neox").table(spec())
    fused = table.save(dict(model.state_dict()))["gpt_neox.layers.1.attention.query_key_value.weight"].view(2, 3, 8, 16)
    for place, name in enumerate("qkv"):
        weight = getattr(model.stack.blocks[1].attention.body, name).weight.view(2, 8, 16)
        assert torch.equal(fused[:, place], weight)


def test_a_sequential_and_a_parallel_model_differ_in_placement_alone():
    assert spec().stack.block.placement == "parallel"
    assert spec(use_parallel_residual=False).stack.block.placement == "pre"


def test_an_unknown_activation_is_refused_by_key():
    with pytest.raises(CheckpointError, match="hidden_act: is 'mish'"):
        spec(hidden_act="mish")
