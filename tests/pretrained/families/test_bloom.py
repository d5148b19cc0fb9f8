"""What is peculiar to BLOOM: distances in place of positions, older names of its sizes, a residual we do not build."""

import pytest

from attnlib.errors import CheckpointError
from attnlib.pretrained.family import HFConfig, family_named

BLOOM = family_named("bloom")


def test_older_names_of_the_sizes_mean_the_same():
    new = {"model_type": "bloom", "vocab_size": 31, "hidden_size": 12, "n_layer": 3, "n_head": 3}
    old = {"model_type": "bloom", "vocab_size": 31, "n_embed": 12, "num_hidden_layers": 3, "num_attention_heads": 3}
    assert BLOOM.spec_from(HFConfig(new)) == BLOOM.spec_from(HFConfig(old))


def test_the_residual_after_the_norm_is_refused():
    with pytest.raises(CheckpointError, match="apply_residual_connection_post_layernorm"):
        BLOOM.spec_from(HFConfig({"model_type": "bloom", "apply_residual_connection_post_layernorm": True}))


def test_a_feed_forward_of_another_width_is_not_written():
    spec = BLOOM.spec_from(HFConfig({"model_type": "bloom", "vocab_size": 31, "hidden_size": 12, "n_layer": 1, "n_head": 3}))
    block = spec.stack.block.replace(mlp=spec.stack.block.mlp.replace(d_ff=47))
    with pytest.raises(CheckpointError, match="d_ff"):
        BLOOM.config_from(spec.replace(stack=spec.stack.replace(block=block)))
