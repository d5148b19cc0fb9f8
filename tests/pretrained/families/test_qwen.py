"""Qwen2 and Qwen3: which layers slide, biases on q, k and v, norms on each head."""

import pytest
import torch
from foreign_folders import goes_both_ways, refused, rewritten, written

from attnlib.attention.masks import Causal
from attnlib.pretrained import load, read_spec
from attnlib.pretrained.decoders import FULL, SLIDING, causal
from attnlib.pretrained.family import HFConfig, family_named
from attnlib.pretrained.tensors import open_tensors

BASE = {"vocab_size": 9, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2,
        "num_key_value_heads": 2}  # fmt: skip


def masks(**config):
    spec = family_named("qwen2").spec_from(HFConfig({**BASE, **config}))
    return [layer.attention.mask for layer in spec.stack.layers]


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_a_config_says_its_spec_and_the_spec_its_config(family):
    assert goes_both_ways(family)


def block(spec):
    return spec.stack.layers[0]


def test_layers_slide_from_one_on_only_where_the_config_asks_for_windows():
    assert masks(sliding_window=4, max_window_layers=1) == [Causal()] * 3
    assert masks(sliding_window=4, max_window_layers=1, use_sliding_window=True) == [Causal(), causal(4), causal(4)]
    assert masks(sliding_window=4, use_sliding_window=True) == [Causal()] * 3  # from the 28th on
    assert masks(use_sliding_window=True, max_window_layers=2)[2] == causal(4096)
    assert masks(use_sliding_window=True, sliding_window=None, max_window_layers=0) == [Causal()] * 3


def test_layer_types_go_before_the_older_keys_and_need_a_window():
    types = {"layer_types": [SLIDING, FULL, SLIDING], "max_window_layers": 0}
    assert masks(**types, use_sliding_window=True, sliding_window=4) == [causal(4), Causal(), causal(4)]
    with pytest.raises(ValueError, match="sliding_window: is None, wish at least 1, since layers slide"):
        masks(**types, sliding_window=4)


def test_heads_of_qwen3_are_128_wide_where_the_config_is_silent():
    known = family_named("qwen3")
    assert block(known.spec_from(HFConfig(BASE))).attention.d_head == 128
    assert block(family_named("qwen2").spec_from(HFConfig(BASE))).attention.d_head is None


def test_biases_of_qwen2_are_those_of_q_k_and_v_whatever_the_config_says(tmp_path):
    _, folder = written("qwen2", "grouped", tmp_path)
    assert block(read_spec(rewritten(folder, attention_bias=True))).attention.bias == ("q", "k", "v")


def test_norms_of_heads_in_a_llama_folder_are_known_for_qwen3(tmp_path):
    _, folder = written("qwen3", "grouped, wide heads", tmp_path)
    text = refused(folder, model_type="llama", architectures=["LlamaForCausalLM"])
    assert "no rule reads: model.layers.{i}.self_attn.k_norm.weight (x3)" in text
    assert text.endswith("(is this a qwen3 checkpoint?)")


def test_both_prefixes_of_a_span_model_are_read(tmp_path):
    hf, folder = written("qwen3", "span", tmp_path)
    before = read_spec(folder)
    names = [name for name in open_tensors(folder).facts if name.startswith("transformer.")]
    rewritten(folder, lambda t: t.update({name.replace("transformer.", "model."): t.pop(name) for name in names}))
    ids = torch.tensor([[7, 8, 9]])
    with torch.no_grad():
        out = hf(ids)
        wish = torch.stack([out.start_logits, out.end_logits], -1)
        assert load(folder).spec == before and torch.equal(load(folder)(ids).logits, wish)
