"""DeBERTa v2 and v3: spellings, dropout, tensors that carry nothing, and what is refused by key."""

import pytest
import torch

from attnlib.attention.disentangled import DisentangledSpec
from attnlib.errors import CheckpointError
from attnlib.nn.norms import LayerNormSpec
from attnlib.pretrained import check, load
from attnlib.pretrained.families.deberta_v2 import DebertaV2
from attnlib.pretrained.family import HFConfig, family_named
from attnlib.pretrained.parity import theirs

BASE = {
    "model_type": "deberta-v2", "architectures": ["DebertaV2ForMaskedLM"], "vocab_size": 61, "hidden_size": 24,
    "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
}  # fmt: skip
V3 = {
    "relative_attention": True, "position_buckets": 256, "norm_rel_ebd": "layer_norm", "share_att_key": True,
    "pos_att_type": "p2c|c2p", "position_biased_input": False, "max_relative_positions": -1, "type_vocab_size": 0,
}  # fmt: skip


def spec(**changes):
    return DebertaV2().spec_from(HFConfig({**BASE, **changes}))


def test_the_published_v3_config_is_one_shared_normed_table_of_512_rows():
    made = spec(**V3)
    norm = LayerNormSpec(eps=1e-7)
    assert made.stack.bias == DisentangledSpec(buckets=256, max_distance=512, norm=norm, share=True, dropout=0.1)
    assert made.stack.block.attention.scores.scale == pytest.approx((3 * 6) ** -0.5)
    assert made.embedding.position is None and made.embedding.types == 0 and made.stack.block.norm == norm
    assert made.build().stack.bias.table.shape == (512, 24)


def test_parts_are_read_from_a_list_or_from_words_between_bars():
    assert spec(**{**V3, "pos_att_type": ["p2c", "c2p"]}) == spec(**V3) == spec(**{**V3, "pos_att_type": "C2P | p2c"})
    one = spec(**{**V3, "pos_att_type": "p2c"})
    assert one.stack.bias.parts == ("p2c",) and one.stack.block.attention.scores.scale == pytest.approx((2 * 6) ** -0.5)


def test_scores_are_scaled_for_parts_even_without_a_table():
    made = spec(pos_att_type=["c2p"])
    assert made.stack.bias is None and made.stack.block.attention.scores.scale == pytest.approx((2 * 6) ** -0.5)
    assert DebertaV2().config_from(made)["pos_att_type"] == ["c2p"]


def test_dropout_is_read_at_its_places():
    rates = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.3, "pooler_dropout": 0.4}
    made = spec(**V3, **rates, conv_kernel_size=3, architectures=["DebertaV2ForSequenceClassification"])
    first, rest = made.stack.layers
    assert (first.dropout, first.attention.dropout, first.conv.dropout, made.stack.bias.dropout) == (0.2, 0.3, 0.2, 0.2)
    assert (rest.conv, made.embedding.dropout, made.head.dropout, made.head.hidden_dropout) == (None, 0.2, 0.2, 0.4)
    assert spec(**rates, cls_dropout=0.0, architectures=["DebertaV2ForSequenceClassification"]).head.dropout == 0.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_act": "mish"}, "hidden_act: is 'mish'"),
        ({"conv_kernel_size": 2}, "conv_kernel_size: is 2, wish an odd number"),
        ({"pos_att_type": "p2p"}, "pos_att_type: names 'p2p', wish c2p, p2c or both"),
        ({"pos_att_type": []}, "pos_att_type: is missing beside relative_attention"),
        ({"pooler_hidden_size": 8}, "pooler_hidden_size: is '8', wish 24"),
        ({"attention_head_size": 8}, "attention_head_size: is '8', wish 6"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings: is 'False'"),
    ],
)
def test_what_is_another_model_is_refused_by_key(change, words):
    with pytest.raises(CheckpointError) as caught:
        spec(**{**V3, **change})
    assert words in str(caught.value)


def test_a_layer_that_no_config_says_is_refused_by_field():
    made = spec(**V3)
    with pytest.raises(CheckpointError, match=r"model\.stack\.bias.* is what no config of deberta_v2 says"):
        DebertaV2().config_from(made.replace(stack=made.stack.replace(bias=DisentangledSpec(norm=LayerNormSpec(eps=1e-3)))))


def folder_of(sample, tmp_path, rename=lambda name: name, **more):
    """A folder of a sample as transformers writes it, with its tensors renamed and others put in."""
    pytest.importorskip("transformers")
    from safetensors.torch import load_file, save_file

    family = family_named("deberta_v2")
    folder = theirs.write(theirs.build(family, family.samples()[sample]), tmp_path / "theirs")
    tensors = {rename(name): tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file({**tensors, **more}, folder / "model.safetensors")
    return folder


def logits(folder):
    with torch.no_grad():
        return load(folder)(torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12, 13, 14]])).logits


def test_both_layouts_of_the_masked_lm_head_are_the_same_tensors(tmp_path):
    def newer(name):
        for new, old in (("dense", "transform.dense"), ("LayerNorm", "transform.LayerNorm"), ("bias", "bias")):
            name = name.replace(f"cls.predictions.{old}", f"lm_predictions.lm_head.{new}")
        return name.replace("LayerNorm.weight", "LayerNorm.gamma")

    plain = logits(folder_of("v3", tmp_path / "a"))
    assert torch.equal(logits(folder_of("v3", tmp_path / "b", newer)), plain)


def test_tensors_that_nothing_reads_are_ignored_with_their_reason(tmp_path):
    table = "deberta.embeddings.position_embeddings.weight"
    more = {table: torch.zeros(32, 24), "mask_predictions.dense.weight": torch.zeros(3, 3)}
    folder = folder_of("v3", tmp_path, **more)
    ignored = check(folder).ignored
    assert ignored.keys() == more.keys() and "position_biased_input" in ignored[table]


def test_a_table_is_not_asked_of_a_config_without_relative_attention(tmp_path):
    folder = folder_of("absolute, factorised", tmp_path, **{"deberta.encoder.rel_embeddings.weight": torch.zeros(18, 24)})
    assert "relative_attention" in check(folder).ignored["deberta.encoder.rel_embeddings.weight"]


def test_a_folder_that_says_bert_is_explained(tmp_path):
    folder = folder_of("v3", tmp_path)
    text = (folder / "config.json").read_text()
    text = text.replace('"deberta-v2"', '"bert"').replace("DebertaV2ForMaskedLM", "BertForMaskedLM")
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"no rule reads: .* \(is this a deberta_v2 checkpoint\?\)"):
        load(folder)
