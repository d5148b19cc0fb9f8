"""SmolLM3: layers without rotary."""

from foreign_folders import goes_both_ways, refused, rewritten, written

from attnlib.attention.masks import Causal
from attnlib.pretrained import read_spec
from attnlib.pretrained.decoders import FULL, SLIDING, causal
from attnlib.pretrained.family import HFConfig, family_named

BASE = {"vocab_size": 9, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 5, "num_attention_heads": 4}


def layers(**config):
    spec = family_named("smollm3").spec_from(HFConfig({**BASE, **config}))
    return [(layer.attention.rotary is not None, layer.attention.mask) for layer in spec.stack.layers]


def test_a_config_says_its_spec_and_the_spec_its_config():
    assert goes_both_ways("smollm3")


def test_every_fourth_layer_turns_nothing_where_the_config_is_silent():
    assert [turned for turned, _ in layers()] == [True, True, True, False, True]
    assert [turned for turned, _ in layers(no_rope_layers=[0, 1, 1, 0, 1, 1])] == [False, True, True, False, True]


def test_layers_that_turn_nothing_slide_on_request():
    window = {"sliding_window": 3, "use_sliding_window": True}
    assert layers(**window)[3] == (False, causal(3)) and layers(**window)[2] == (True, Causal())
    assert layers(sliding_window=3)[3] == (False, Causal())
    named = layers(sliding_window=3, layer_types=[SLIDING, *[FULL] * 4])
    assert named[0] == (True, causal(3)) and named[3] == (False, Causal())


def test_a_list_that_names_no_layers_is_refused_by_key(tmp_path):
    _, folder = written("smollm3", "every second unturned", tmp_path)
    assert read_spec(folder).stack.pattern == ("full_attention", "full_attention_unturned")
    rewritten(folder)
    for wrong in ([1, 0], [1, 2, 0], ["a", 0, 1]):
        assert "no_rope_layers: is" in refused(folder, no_rope_layers=wrong)
