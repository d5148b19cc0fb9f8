"""Gemma: what a silent config means, the activation that its first release does not mean, and what is refused."""

from foreign_folders import folder_of, goes_both_ways, refused

from attnlib.pretrained.family import HFConfig, family_named

BASE = {
    "model_type": "gemma", "architectures": ["GemmaForCausalLM"], "vocab_size": 9, "hidden_size": 16, "intermediate_size": 8,
    "num_hidden_layers": 2, "num_attention_heads": 4,
}  # fmt: skip


def spec_of(**config):
    return family_named("gemma").spec_from(HFConfig({**BASE, **config}))


def test_a_config_says_its_spec_and_the_spec_its_config():
    assert goes_both_ways("gemma")


def test_what_a_silent_config_means():
    spec = spec_of()
    block = spec.stack.layers[0]
    assert block.attention.d_head == 256 and block.norm.unit_offset and block.norm.eps == 1e-6
    assert spec.embedding.scale == "sqrt" and spec.head.tied
    assert block.mlp.activation == spec_of(hidden_act="gelu").stack.layers[0].mlp.activation == "gelu_tanh"


def test_what_is_not_built_is_refused_by_key(tmp_path):
    folder = folder_of(family_named("gemma"), tmp_path / "x", **BASE, head_dim=6)
    assert "use_bidirectional_attention: is 'True'" in refused(folder, use_bidirectional_attention=True)
    assert "hidden_act" in refused(folder, use_bidirectional_attention=..., hidden_act="softsign")
