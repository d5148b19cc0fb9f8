"""Gemma 2 and 3: caps, windows in a pattern, weights kept as w - 1, two rotary bases, both spellings."""

import pytest
import torch
from foreign_folders import goes_both_ways, refused, rewritten, written

from attnlib.attention.masks import Causal, Everything, Window
from attnlib.attention.rotary import Linear, Rotary
from attnlib.errors import CheckpointError
from attnlib.pretrained import load, read_spec
from attnlib.pretrained.decoders import FULL, SLIDING, causal
from attnlib.pretrained.family import HFConfig, family_named

BASE = {"vocab_size": 9, "hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 7, "num_attention_heads": 4}


def spec_of(family, **config):
    return family_named(family).spec_from(HFConfig({**BASE, **config}))


def masks(family, **config):
    return [layer.attention.mask for layer in spec_of(family, **config).stack.layers]


@pytest.mark.parametrize("family", ["gemma2", "gemma3"])
def test_a_config_says_its_spec_and_the_spec_its_config(family):
    assert goes_both_ways(family)


def test_what_a_silent_config_means():
    two, three = spec_of("gemma2"), spec_of("gemma3")
    attention = two.stack.layers[0].attention
    assert (attention.d_head, attention.num_kv_heads) == (256, None) and attention.scores.softcap == 50.0
    assert two.head.softcap == 30.0 and two.head.tied and two.embedding.scale == "sqrt"
    assert attention.scores.scale == 256**-0.5 and masks("gemma2") == [causal(4096), Causal()] * 3 + [causal(4096)]
    assert masks("gemma3") == [causal(4096)] * 5 + [Causal(), causal(4096)]
    assert three.head.softcap is None and three.stack.layers[0].attention.scores.softcap is None
    uncapped = spec_of("gemma2", attn_logit_softcapping=None, final_logit_softcapping=None)
    assert uncapped.head.softcap is None and uncapped.stack.layers[0].attention.scores.softcap is None


def test_old_and_new_spellings_of_two_rotary_bases_mean_the_same():
    old = {"rope_theta": 700.0, "rope_local_base_freq": 70.0, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    linear = {"rope_type": "linear", "factor": 8.0, "rope_theta": 700.0}
    new = {"rope_parameters": {FULL: linear, SLIDING: {"rope_type": "default", "rope_theta": 70.0}}}
    pattern = {"sliding_window_pattern": 3}
    assert spec_of("gemma3", **old, **pattern) == spec_of("gemma3", **new, **pattern)
    near, _, far = [layer.attention.rotary for layer in spec_of("gemma3", **old, **pattern).stack.layers[:3]]
    assert near == Rotary(base=70.0) and far == Rotary(base=700.0, scaling=Linear(factor=8.0))
    near, *_, far = [layer.attention.rotary for layer in spec_of("gemma3").stack.layers[:6]]
    assert (near, far) == (Rotary(base=10000.0), Rotary(base=1000000.0))


def test_a_model_that_reads_both_ways_has_half_its_window_on_each_side():
    window = Window(before=4, after=4)
    both = {"use_bidirectional_attention": True, "sliding_window_pattern": 2, "sliding_window": 8}
    assert masks("gemma3", **both)[:2] == [window, Everything()]


def test_what_is_not_built_is_refused_by_key(tmp_path):
    _, folder = written("gemma2", "grouped", tmp_path / "2")
    assert "use_bidirectional_attention: is 'True'" in refused(folder, use_bidirectional_attention=True)
    _, folder = written("gemma3", "grouped, scaled", tmp_path / "3")
    assert "attn_logit_softcapping: is set, wish null" in refused(folder, attn_logit_softcapping=5.0)
    assert "sliding_window_pattern: is 0" in refused(
        folder, attn_logit_softcapping=None, sliding_window_pattern=0, layer_types=...
    )


def test_its_four_norms_are_known_in_a_llama_folder(tmp_path):
    for family, sample in (("gemma2", "grouped"), ("gemma3", "grouped, scaled")):
        _, folder = written(family, sample, tmp_path / family)
        text = refused(folder, model_type="llama", architectures=["LlamaForCausalLM"], rope_parameters=...)
        assert text.endswith(f"(is this a {family} checkpoint?)")


def test_a_scale_that_is_no_whole_scalar_is_not_said():
    spec = spec_of("gemma2")
    blocks = {
        name: block.replace(attention=block.attention.replace(scores=block.attention.scores.replace(scale=0.4)))
        for name, block in spec.stack.blocks.items()
    }
    with pytest.raises(CheckpointError, match=r"model.stack.blocks.0.attention.scores.scale: is what no config"):
        family_named("gemma2").config_from(spec.replace(stack=spec.stack.replace(blocks=blocks)))


def test_capped_scores_in_bfloat16_are_rounded_after_each_step(tmp_path):
    hf, folder = written("gemma2", "grouped", tmp_path)
    model, ids = load(folder, dtype=torch.bfloat16), torch.arange(5, 25)[None]
    with torch.no_grad():
        once, model.stack.backend = model(ids).logits, "reference"
        assert not torch.equal(once, model(ids).logits)
        assert (once - hf(ids).logits).abs().max() < 0.1 * once.abs().max()


def test_a_stored_copy_of_a_tied_vocabulary_is_read(tmp_path):
    _, folder = written("gemma2", "grouped", tmp_path)
    rewritten(folder, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    assert load(folder).spec == read_spec(folder)
