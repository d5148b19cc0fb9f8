"""What is peculiar to OPT: a vocabulary narrower than the stream, norms on either side, layers that drop out."""

import pytest

from attnlib.errors import CheckpointError
from attnlib.pretrained.family import HFConfig, family_named

OPT = family_named("opt")
TINY = {"model_type": "opt", "vocab_size": 31, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2,
        "ffn_dim": 20, "max_position_embeddings": 16}  # fmt: skip


def test_a_narrow_vocabulary_is_projected_on_both_sides_without_bias():
    model = OPT.spec_from(HFConfig({**TINY, "word_embed_proj_dim": 6})).build()
    assert model.embedding.token.weight.shape == (31, 6) and model.embedding.position.weight.shape == (18, 12)
    assert model.embedding.token_project.weight.shape == (12, 6) and model.stack.project.weight.shape == (6, 12)
    assert model.embedding.token_project.bias is None and model.stack.project.bias is None
    assert model.head.vocabulary.weight is None


def test_norms_after_leave_no_last_one():
    spec = OPT.spec_from(HFConfig({**TINY, "do_layer_norm_before": False}))
    assert spec.stack.block.placement == "post" and spec.stack.final_norm is None
    assert OPT.config_from(spec)["_remove_final_layer_norm"] is False


def test_layers_that_drop_out_are_refused():
    with pytest.raises(CheckpointError, match="layerdrop"):
        OPT.spec_from(HFConfig({**TINY, "layerdrop": 0.1}))
