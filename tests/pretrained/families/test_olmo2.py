"""OLMo 2: norms after branches, over all heads, and cast orders of its own."""

import pytest
import torch
from foreign_folders import goes_both_ways, refused, written

from attnlib.pretrained import load, read_spec
from attnlib.pretrained.families.llama import Llama
from attnlib.pretrained.family import HFConfig, family_named
from attnlib.pretrained.parity import theirs


def block(spec):
    return spec.stack.layers[0]


def test_a_config_says_its_spec_and_the_spec_its_config():
    assert goes_both_ways("olmo2")


def test_its_norms_are_known_in_a_llama_folder(tmp_path):
    _, folder = written("olmo2", "no grouping", tmp_path)
    text = refused(folder, model_type="llama", architectures=["LlamaForCausalLM"])
    assert "self_attn.q_norm.weight (x3)" in text and text.endswith("(is this a olmo2 checkpoint?)")


def test_a_llama_model_is_not_said():
    spec = Llama().spec_from(HFConfig({**Llama().samples()["grouped"].config}))
    with pytest.raises(ValueError, match="no config of olmo2 says"):
        family_named("olmo2").config_from(spec)


@pytest.mark.parametrize("change", ["norm", "rotary"])
def test_each_cast_order_shows_in_bfloat16(tmp_path, change):
    _, folder = written("olmo2", "no grouping", tmp_path)
    model, spec = load(folder, dtype=torch.bfloat16), read_spec(folder)
    attention = block(spec).attention
    if change == "norm":
        attention = attention.replace(norm=attention.norm.replace(cast="cast_then_scale"))
    else:
        attention = attention.replace(rotary=attention.rotary.replace(exact=False))
    other = spec.replace(stack=spec.stack.replace(block=block(spec).replace(attention=attention))).build().eval()
    other = other.to(torch.bfloat16)
    other.load_state_dict(model.state_dict())
    hf, _ = theirs.read("Olmo2ForCausalLM", folder, dtype=torch.bfloat16, attn_implementation="sdpa")
    ids = torch.arange(5, 35)[None]
    with torch.no_grad():
        wish = hf(ids).logits
        assert torch.equal(model(ids).logits, wish) and not torch.equal(other(ids).logits, wish)
