"""Mistral: a window on every layer, or none."""

import pytest
from foreign_folders import goes_both_ways, refused, rewritten, written

from attnlib.attention.masks import Causal
from attnlib.errors import CheckpointError
from attnlib.pretrained import read_spec
from attnlib.pretrained.decoders import causal
from attnlib.pretrained.family import HFConfig, family_named


def block(spec):
    return spec.stack.layers[0]


def test_a_config_says_its_spec_and_the_spec_its_config():
    assert goes_both_ways("mistral")


def test_a_file_without_the_key_means_the_window_of_the_config_class_and_null_means_none(tmp_path):
    _, folder = written("mistral", "window", tmp_path)
    assert block(read_spec(folder)).attention.mask == causal(5)
    assert block(read_spec(rewritten(folder, sliding_window=None))).attention.mask == Causal()
    assert block(read_spec(rewritten(folder, sliding_window=...))).attention.mask == causal(4096)
    assert "sliding_window: is 0" in refused(folder, sliding_window=0)
    assert "num_kv_heads: 8, must divide num_heads (4)" in refused(folder, sliding_window=5, num_key_value_heads=...)


def test_a_model_of_mixed_windows_is_not_said():
    known = family_named("qwen2")
    sample = known.samples()["last layers slide, tied"]
    spec = known.spec_from(HFConfig(sample.config))
    with pytest.raises(CheckpointError, match=r"model\.stack.*: is what no config of mistral says"):
        family_named("mistral").config_from(spec)
