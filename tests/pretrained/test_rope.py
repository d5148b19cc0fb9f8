"""Rotary settings in every spelling that files carry."""

import pytest

from attnlib.attention.rotary import Linear, LongRope, Rotary, Yarn
from attnlib.errors import CheckpointError
from attnlib.pretrained.family import HFConfig
from attnlib.pretrained.rope import rope_config, rotary_from

NESTED = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 700.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 70.0},
}


def read(tree, *args, **kwargs):
    return rotary_from(HFConfig(tree), *args, **kwargs)


def test_kinds_of_layers_may_be_turned_unlike():
    config = {"rope_parameters": NESTED}
    assert read(config, "full_attention") == Rotary(base=700.0, scaling=Linear(factor=8.0))
    assert read(config, "sliding_attention") == Rotary(base=70.0)
    with pytest.raises(CheckpointError, match="names full_attention, sliding_attention, wish one setting for all layers"):
        read(config)


def test_the_older_spelling_goes_first_as_in_transformers():
    config = {"rope_scaling": {"type": "linear", "factor": 2}, "rope_parameters": {"rope_theta": 5.0}, "rope_theta": 7}
    assert read(config) == Rotary(base=7.0, scaling=Linear(factor=2.0))
    assert read({"rope_parameters": {"rope_type": "default"}, "rope_theta": 7.0}) == Rotary(base=7.0)
    assert read({"rotary_emb_base": 9}, theta="rotary_emb_base") == Rotary(base=9.0)


def test_a_part_of_a_head_is_turned_only_where_the_family_does_so():
    assert read({"rotary_pct": 0.25}, fraction="rotary_pct").fraction == 0.25
    assert read({"rope_parameters": {"partial_rotary_factor": 0.5}}, fraction="partial_rotary_factor").fraction == 0.5
    for config in ({"partial_rotary_factor": 0.5}, {"rope_parameters": {"partial_rotary_factor": 0.5}}):
        with pytest.raises(CheckpointError, match=r"partial_rotary_factor: is '0.5', wish 1.0"):
            read(config)


LONG = {"short_factor": [1, 1.5], "long_factor": [2.0, 4.0], "rope_type": "su"}


def test_longrope_reads_its_factor_out_of_the_lengths():
    config = {"rope_scaling": LONG, "max_position_embeddings": 32, "original_max_position_embeddings": 8}
    found = read(config, original="original_max_position_embeddings", spelled={"su": "longrope"}).scaling
    assert found == LongRope(short_factor=(1.0, 1.5), long_factor=(2.0, 4.0), original_length=8, factor=4.0)
    with pytest.raises(CheckpointError, match="rope_type: is 'su', wish one of default"):
        read(config)
    with pytest.raises(CheckpointError, match=r"long_factor: is \['x'\], wish numbers"):
        read({"rope_scaling": {**LONG, "rope_type": "longrope", "long_factor": ["x"]}})


def test_yarn_reads_its_factor_out_of_the_lengths_and_its_attention_factor_out_of_two_scales():
    config = {"max_position_embeddings": 40}
    plain = read({**config, "rope_parameters": {"rope_type": "yarn", "original_max_position_embeddings": 10}}).scaling
    assert isinstance(plain, Yarn) and (plain.factor, plain.original_length, plain.attention_factor) == (4.0, 10, None)
    scales = {"rope_type": "yarn", "factor": 4.0, "mscale": 0.5, "mscale_all_dim": 1.0}
    scaled = read({**config, "rope_parameters": scales}).scaling
    assert isinstance(scaled, Yarn) and scaled.attention_factor == pytest.approx(1.0693147 / 1.1386294)


@pytest.mark.parametrize(
    "scaling", [None, Linear(factor=3.0), LongRope(short_factor=(1.0, 2.0), long_factor=(3.0, 4.0), original_length=8)]
)
def test_a_config_of_a_rotary_says_it(scaling):
    for fraction in (0.5, 1.0):
        rotary = Rotary(base=77.0, fraction=fraction, scaling=scaling)
        tree = rope_config(rotary, "here", partial=True)
        assert read(tree, fraction="partial_rotary_factor") == rotary
    with pytest.raises(CheckpointError, match="here: turns part of a head"):
        rope_config(Rotary(fraction=0.5), "here")
