"""The T5 group: when the vocabulary is tied and scaled, what old files store, and who reads what."""

import pytest
import torch
from foreign_folders import folder_of, rewritten

from attnlib.errors import CheckpointError, LayoutError
from attnlib.models.encoder import EncoderSpec
from attnlib.pretrained import check, load
from attnlib.pretrained.families.mt5 import MT5
from attnlib.pretrained.families.t5 import T5
from attnlib.pretrained.families.umt5 import UMT5
from attnlib.pretrained.family import HFConfig

torch.set_num_threads(1)
BASE = {
    "model_type": "t5", "vocab_size": 41, "d_model": 12, "d_kv": 5, "d_ff": 20, "num_layers": 2, "num_heads": 2,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 20,
}  # fmt: skip


def spec_of(family=T5, **changes):
    return family().spec_from(HFConfig({**BASE, **changes}))


def folder(tmp_path, family=T5, change=lambda tensors: None, **config):
    return rewritten(folder_of(family(), tmp_path / "x", **BASE), change, **config)


@pytest.mark.parametrize(
    ("family", "keys", "tied", "scale"),
    [
        (T5, {}, True, "inverse_sqrt"),
        (T5, {"tie_word_embeddings": True}, True, "inverse_sqrt"),
        (T5, {"tie_word_embeddings": False}, False, 1.0),  # T5 1.1 as it was published
        (T5, {"tie_word_embeddings": True, "scale_decoder_outputs": False}, True, 1.0),  # as it is written today
        (UMT5, {"tie_word_embeddings": False}, False, 1.0),
        (MT5, {}, True, 1.0),
        (MT5, {"tie_word_embeddings": False}, False, 1.0),
    ],
)
def test_the_vocabulary_is_tied_and_scaled_as_each_generation_says(family, keys, tied, scale):
    head = spec_of(family, **keys).head
    assert (head.tied, head.scale) == (tied, scale)
    tree = family().config_from(spec_of(family, **keys))
    assert family().spec_from(HFConfig(tree)) == spec_of(family, **keys)


def test_an_untied_vocabulary_is_known_by_its_values_where_the_config_says_tied(tmp_path):
    path = folder(tmp_path, change=lambda t: t.update({"lm_head.weight": t["shared.weight"] * 2}))
    assert check(path).untied == ("lm_head.weight",)
    model, ids = load(path), torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        once = model(ids, ids).logits
        model.head.vocabulary.weight.copy_(model.embedding.token.weight)
        assert torch.allclose(once, 2 * model(ids, ids).logits)


def test_copies_of_the_table_and_the_bias_that_was_never_used_are_read_as_such(tmp_path):
    unused = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"

    def old(tensors):
        for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"):
            tensors[name] = tensors["shared.weight"].clone()
        tensors[unused] = torch.ones(8, 2)

    report = check(folder(tmp_path, change=old))
    assert len(report.ties) == 3 and not report.untied and list(report.ignored) == [unused]


@pytest.mark.parametrize(
    ("name", "activation", "kind"),
    [("relu", "relu", "dense"), ("gated-gelu", "gelu_tanh", "gated"), ("gated-silu", "silu", "gated"),
     ("gelu", "gelu", "dense"), ("gelu_new", "gelu_tanh", "dense"), ("gated-relu", "relu", "gated")],
)  # fmt: skip
def test_feed_forward_projections_are_taken_apart_and_put_together(name, activation, kind):
    spec = spec_of(feed_forward_proj=name)
    assert (spec.encoder.block.mlp.activation, spec.decoder.block.mlp.kind) == (activation, kind)
    assert T5().spec_from(HFConfig(T5().config_from(spec))) == spec


@pytest.mark.parametrize("name", ["ungated-gelu", "gated-new-gelu", "mish"])
def test_another_feed_forward_is_refused_by_key(name):
    with pytest.raises(CheckpointError, match="feed_forward_proj: is"):
        spec_of(feed_forward_proj=name)


def test_dropout_acts_at_all_five_sites():
    spec = spec_of(dropout_rate=0.25)
    for stack in (spec.encoder, spec.decoder):
        block = stack.block
        assert {spec.embedding.dropout, stack.dropout, block.dropout, block.attention.dropout, block.mlp.dropout} == {0.25}
    assert spec.decoder.block.cross.dropout == 0.25


def test_an_encoder_and_a_pair_without_a_head_are_told_apart():
    alone = spec_of(architectures=["T5EncoderModel"])
    assert isinstance(alone, EncoderSpec) and T5().config_from(alone)["architectures"] == ["T5EncoderModel"]
    assert T5().config_from(spec_of(architectures=["T5Model"]))["architectures"] == ["T5Model"]
    tags = spec_of(architectures=["T5ForTokenClassification"], id2label={"0": "O", "1": "B"})
    assert isinstance(tags, EncoderSpec) and T5().config_from(tags)["id2label"] == {"0": "O", "1": "B"}
    with pytest.raises(CheckpointError, match="'classify', which no class of t5 has"):
        T5().config_from(alone.replace(head=spec_of(architectures=["T5ForSequenceClassification"]).head))


def test_the_files_of_one_generation_are_not_read_as_anothers(tmp_path):
    path = folder(tmp_path, UMT5, model_type="t5", architectures=["T5ForConditionalGeneration"])
    with pytest.raises(CheckpointError, match=r"no rule reads: .*relative_attention_bias.*is this a umt5 checkpoint"):
        load(path)


@torch.no_grad()
def test_a_head_that_tells_of_the_source_lets_the_decoder_read_it_again():
    model = spec_of(architectures=["T5ForSequenceClassification"], decoder_start_token_id=7).build().eval()
    ids = torch.tensor([[3, 4, 5, 1], [8, 1, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    again = torch.tensor([[7, 3, 4, 5], [7, 8, 1, 0]])
    given = model(ids, again, attention_mask=mask, decoder_attention_mask=mask).logits
    assert torch.equal(model(ids, attention_mask=mask).logits, given) and given.shape == (2, 2)
    assert torch.allclose(model(ids[1:, :2]).logits, given[1:])
    left = model(torch.tensor([[0, 0, 8, 1]]), attention_mask=torch.tensor([[0, 0, 1, 1]])).logits
    assert torch.allclose(left, given[1:])
    with pytest.raises(LayoutError, match="neither of decoder_ids and embeds"):
        spec_of().build()(ids)
