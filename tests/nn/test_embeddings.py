"""A factorised embedding projects the sum of its parts, or the token's vector alone."""

import pytest
import torch

import attnlib
from attnlib.layout import Layout
from attnlib.nn.embeddings import EmbeddingSpec, LearnedSpec
from attnlib.nn.norms import LayerNormSpec

IDS = torch.tensor([[3, 1, 4]])
LAYOUT = Layout.dense(1, 3)


def built(**words):
    spec = EmbeddingSpec(d_embedding=4, position=LearnedSpec(max_length=5), types=2, norm=LayerNormSpec(), **words)
    return spec.build(vocab_size=7, d_model=6)


@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_the_sum_is_projected_after_the_norm(bias):
    e = built(project_bias=bias)
    assert (e.project.bias is not None) == bias and e.position.weight.shape[1] == e.token_type.weight.shape[1] == 4
    whole = e.token.weight[IDS] + e.token_type.weight[0] + e.position.weight[:3]
    assert torch.allclose(e(IDS, LAYOUT), e.project(e.norm(whole)), atol=1e-6)


@torch.no_grad()
def test_the_token_alone_is_projected_before_the_others_are_added():
    e = built(project="token", project_bias=False)
    assert e.token_project.bias is None and e.position.weight.shape[1] == e.token_type.weight.shape[1] == 6
    whole = e.token.weight[IDS] @ e.token_project.weight.T + e.token_type.weight[0] + e.position.weight[:3]
    assert torch.allclose(e(IDS, LAYOUT), e.norm(whole), atol=1e-6)


@torch.no_grad()
def test_a_stack_that_ends_narrower_meets_a_tied_vocabulary():
    model = attnlib.build({
        "kind": "decoder", "d_model": 8, "vocab_size": 11, "embedding": {"d_embedding": 4, "project": "token"},
        "stack": {"num_layers": 1, "d_out": 4,
                  "block": {"attention": {"num_heads": 2, "mask": "causal"}, "mlp": {"kind": "dense", "d_ff": 9}}},
    })  # fmt: skip
    out = model(IDS)
    assert out.last.shape == (1, 3, 4) and torch.allclose(out.logits, out.last @ model.embedding.token.weight.T)


def test_a_tied_vocabulary_of_another_width_is_refused():
    with pytest.raises(ValueError, match=r"head\.tied"):
        attnlib.build({
            "kind": "decoder", "d_model": 8, "vocab_size": 11,
            "stack": {"num_layers": 1, "d_out": 4, "block": {"attention": {"num_heads": 2, "mask": "causal"}}},
        })  # fmt: skip
