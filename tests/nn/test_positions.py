"""Positions by their definition, tables in and out of checkpoints, one table of tokens for two stacks."""

import math

import pytest
import torch

from attnlib import load, save
from attnlib.errors import LayoutError
from attnlib.layout import Layout
from attnlib.models.encoder_decoder import EncoderDecoderSpec
from attnlib.nn.embeddings import EmbeddingSpec, LearnedSpec, SinusoidalSpec, sinusoids
from attnlib.spec import SpecErrors, read

torch.set_num_threads(1)
HEADS = {"num_heads": 2}
PAIR = {
    "d_model": 8, "vocab_size": 23,
    "embedding": {"position": {"kind": "learned", "max_length": 9}, "norm": "layer"},
    "decoder_embedding": {"position": {"kind": "sinusoidal", "max_length": 7, "stored": True}, "scale": "sqrt"},
    "share_tokens": True,
    "encoder": {"num_layers": 1, "block": {"attention": HEADS}},
    "decoder": {"num_layers": 1, "block": {"attention": {**HEADS, "mask": "causal"}, "cross": HEADS}},
}  # fmt: skip


def pair(**changes):
    return read(EncoderDecoderSpec, {**PAIR, **changes})


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("width", [6, 7])
def test_sinusoids_are_those_of_the_definition(width, closed):
    half, table = (width + 1) // 2, sinusoids(torch.arange(5), width, order="half_split", closed=closed)
    for position in range(5):
        for i in range(width // 2):
            rate = 10000.0 ** (-2 * i / (width - 2 if closed else width))
            assert math.isclose(table[position, i], math.sin(position * rate), abs_tol=1e-6)
            assert math.isclose(table[position, half + i], math.cos(position * rate), abs_tol=1e-6)
    turns = sinusoids(torch.arange(5), width, closed=closed)
    assert torch.equal(turns[:, 0::2], table[:, :half]) and torch.equal(turns[:, 1::2], table[:, half:])
    assert not closed or width % 2 or math.isclose(table[1, half - 1], math.sin(1e-4), rel_tol=1e-5)


def test_a_table_of_sinusoids_is_what_is_computed_without_one():
    layout = Layout.from_lengths([4, 2, 6], side="left")
    free, bound = (SinusoidalSpec(order="half_split", max_length=n).build(10) for n in (None, 6))
    torch.testing.assert_close(bound(layout), free(layout))
    assert not bound.state_dict() and [*SinusoidalSpec(max_length=6, stored=True).build(10).state_dict()] == ["table"]
    assert not [*bound.parameters()]


def test_positions_beyond_a_table_are_refused():
    for spec in (SinusoidalSpec(max_length=6), LearnedSpec(max_length=6)):
        with pytest.raises(LayoutError, match="the text is 7 tokens long, at most 6 positions"):
            spec.build(4)(Layout.dense(1, 7))
    with pytest.raises(SpecErrors, match="stored: true without max_length"):
        SinusoidalSpec(stored=True)


def test_a_scale_is_rounded_before_it_multiplies_or_not():
    tables = [EmbeddingSpec(scale=5.108, round_scale=flag).build(vocab_size=5, d_model=4) for flag in (True, False)]
    ids, layout = torch.tensor([[1, 3]]), Layout.dense(1, 2)
    x = torch.tensor([0.7109375, 1.6640625, -0.30859375, 0.0086669921875])  # bfloat16 has these
    rounded, exact = (table.bfloat16()(None, layout, embeds=x.bfloat16().expand(1, 2, 4)) for table in tables)
    assert torch.equal(exact[0, 0], (x.double() * 5.108).bfloat16())
    assert torch.equal(rounded[0, 0], (x.double() * 5.09375).bfloat16()) and not torch.equal(rounded, exact)
    tables[1].load_state_dict(tables[0].state_dict())
    assert torch.equal(tables[0].float()(ids, layout), tables[1].float()(ids, layout))


def test_two_stacks_share_one_table_of_tokens_and_nothing_else(tmp_path):
    model = pair().build()
    names = [name for name, _ in model.named_parameters() if "token" in name]
    assert names == ["embedding.token.weight"] and model.decoder_embedding.token is model.embedding.token
    ids = torch.tensor([[1, 2, 3]])
    out = model(ids, ids)
    out.logits.square().sum().backward()
    assert model.embedding.token.weight.grad.abs().sum(1).count_nonzero() == 23  # the tied head reaches every row
    model.decoder_embedding.position.table.mul_(2.0)  # a stored table is what the file says
    save(model, tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.decoder_embedding.token.weight is again.embedding.token.weight
    assert torch.equal(again.decoder_embedding.position.table, model.decoder_embedding.position.table)
    assert torch.equal(again(ids, ids).logits, model(ids, ids).logits)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"decoder_embedding": None}, "share_tokens: true without decoder_embedding"),
        ({"decoder_vocab_size": 29}, "share_tokens: true over two vocabularies"),
        ({"decoder_embedding": {"d_embedding": 4}, "head": "none"}, "share_tokens: true over tables of unlike width"),
    ],
)
def test_tables_that_cannot_be_one_are_refused_when_the_config_is_read(changes, words):
    with pytest.raises(SpecErrors, match=words):
        pair(**changes)
    assert pair(decoder_vocab_size=23).build().embedding.token.weight.shape == (23, 8)
