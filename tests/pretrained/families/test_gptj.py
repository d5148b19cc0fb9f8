"""What is peculiar to GPT-J: one norm for both branches, neighbouring channels turned, whole numbers of them."""

import pytest

from attnlib.errors import CheckpointError
from attnlib.pretrained.family import HFConfig, family_named

GPTJ = family_named("gptj")
TINY = {"model_type": "gptj", "vocab_size": 31, "n_embd": 24, "n_layer": 2, "n_head": 1}


def test_one_norm_serves_both_branches():
    block = GPTJ.spec_from(HFConfig({**TINY, "rotary_dim": 6})).stack.block
    assert block.share_norm and block.placement == "parallel" and block.attention.rotary.interleaved
    names = GPTJ.spec_from(HFConfig({**TINY, "rotary_dim": 6})).build().state_dict()
    assert "stack.blocks.1.norm.weight" in names and not [n for n in names if ".before." in n]


@pytest.mark.parametrize("turned", range(2, 25, 2))
def test_as_many_channels_are_turned_as_the_config_says(turned):
    spec = GPTJ.spec_from(HFConfig({**TINY, "rotary_dim": turned}))
    assert spec.stack.block.attention.rotary.width(24) == turned
    assert GPTJ.config_from(spec)["rotary_dim"] == turned


def test_a_model_of_another_wiring_is_not_written():
    spec = GPTJ.spec_from(HFConfig({**TINY, "rotary_dim": 6}))
    block = spec.stack.block.replace(share_norm=False)
    with pytest.raises(CheckpointError, match="share_norm"):
        GPTJ.config_from(spec.replace(stack=spec.stack.replace(block=block)))
