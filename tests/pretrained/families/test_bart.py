"""BART and its kin: prefixes come and go, one row is a vector, and what would be another model is refused by key."""

import pytest
import torch
from foreign_folders import folder_of, rewritten

from attnlib.errors import CheckpointError
from attnlib.pretrained import check, load
from attnlib.pretrained.families.bart import Bart
from attnlib.pretrained.families.marian import Marian
from attnlib.pretrained.families.mbart import MBart
from attnlib.pretrained.families.pegasus import Pegasus
from attnlib.pretrained.family import HFConfig
from attnlib.pretrained.rules import Row

torch.set_num_threads(1)
BASE = {
    "vocab_size": 41, "d_model": 12, "encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 20,
    "decoder_ffn_dim": 16, "encoder_attention_heads": 3, "decoder_attention_heads": 2, "max_position_embeddings": 14,
}  # fmt: skip
MARIAN = {**BASE, "decoder_start_token_id": 40}


def spec_of(family=Bart, **changes):
    return family().spec_from(HFConfig({**BASE, **changes}))


def renamed(change):
    """A change of tensors that renames them."""

    def rename(tensors):
        changed = {change(name): tensor for name, tensor in tensors.items()}
        tensors.clear()
        tensors.update(changed)

    return rename


@pytest.mark.parametrize("family", [Bart, MBart, Pegasus, Marian])
def test_a_config_says_its_spec_and_the_spec_its_config(family):
    spec = spec_of(family, scale_embedding=True, activation_function="swish", dropout=0.2, decoder_start_token_id=5)
    assert family().spec_from(HFConfig(family().config_from(spec))) == spec
    assert (spec.embedding.scale, spec.encoder.block.mlp.activation, spec.decoder_start) == ("sqrt", "silu", 5)


def test_files_with_and_without_a_prefix_are_the_same_model(tmp_path):
    ids = torch.tensor([[3, 4, 5]])
    whole = folder_of(Bart(), tmp_path / "whole", **BASE)
    with torch.no_grad():
        expected = load(whole)(ids, ids).logits
        rewritten(whole, renamed(lambda name: name.removeprefix("model.")))
        assert torch.equal(load(whole)(ids, ids).logits, expected)
        bare = folder_of(Bart(), tmp_path / "bare", **BASE, architectures=["BartModel"])
        expected = load(bare)(ids, ids).last
        rewritten(bare, renamed(lambda name: f"model.{name}"))
        assert torch.equal(load(bare)(ids, ids).last, expected)


def test_copies_and_marks_of_old_files_are_read_as_such(tmp_path):
    def old(tensors):
        for side in ("encoder", "decoder"):
            tensors[f"model.{side}.embed_tokens.weight"] = tensors["model.shared.weight"].clone()
            tensors[f"model.{side}.version"] = torch.tensor([3.0])

    report = check(rewritten(folder_of(Bart(), tmp_path / "x", **BASE), old))
    assert len(report.ties) == 2 and [*report.ignored] == ["model.encoder.version", "model.decoder.version"]


def test_tables_of_the_stacks_that_differ_are_refused(tmp_path):
    def torn(tensors):
        tensors["model.encoder.embed_tokens.weight"] = tensors["model.shared.weight"] + 1

    with pytest.raises(CheckpointError, match=r"model\.encoder\.embed_tokens\.weight: differs from the tensor"):
        load(rewritten(folder_of(Bart(), tmp_path / "x", **BASE), torn))


def test_stored_sinusoids_are_read_where_they_are_part_of_the_model_and_else_ignored(tmp_path):
    name = "model.encoder.embed_positions.weight"
    pegasus = folder_of(Pegasus(), tmp_path / "pegasus", **BASE)
    assert load(rewritten(pegasus, lambda t: t[name].mul_(3))).embedding.position.table[0, -1] == 3.0
    marian = folder_of(Marian(), tmp_path / "marian", **MARIAN)
    report = check(rewritten(marian, lambda t: t.update({name: torch.ones(14, 12)})))
    assert report.ignored == {name: "computed from max_position_embeddings"}


def test_two_vocabularies_are_tied_to_the_table_of_the_decoder_or_not_at_all(tmp_path):
    two = {**MARIAN, "share_encoder_decoder_embeddings": False, "decoder_vocab_size": 43}
    folder = folder_of(Marian(), tmp_path / "x", **two)
    tie = "model.decoder.embed_tokens.weight"
    assert check(rewritten(folder, lambda t: t.update({"lm_head.weight": t[tie].clone()}))).untied == ()
    assert load(folder).spec.head.tied
    assert check(rewritten(folder, lambda t: t["lm_head.weight"].mul_(2))).untied == ("lm_head.weight",)
    assert not load(folder).spec.head.tied and load(folder).spec.decoder_vocab_size == 43


REFUSED = [
    (Bart, {"encoder_layerdrop": 0.1}, "encoder_layerdrop: is '0.1'"),
    (Bart, {"decoder_layerdrop": 0.2}, "decoder_layerdrop: is '0.2'"),
    (Bart, {"tie_word_embeddings": False}, "tie_word_embeddings: is 'False'"),
    (Bart, {"activation_function": "tanhshrink"}, "activation_function: is 'tanhshrink'"),
    (Bart, {"decoder_attention_heads": 5}, "must divide d_model"),
    (Marian, {"tie_word_embeddings": False}, "tie_word_embeddings: is 'False'"),
    (Marian, {"decoder_vocab_size": 50}, "decoder_vocab_size: is '50', wish 41"),
]


@pytest.mark.parametrize(("family", "change", "words"), REFUSED)
def test_a_config_that_we_would_build_otherwise_is_refused_by_key(family, change, words):
    with pytest.raises(ValueError, match=words):
        spec_of(family, **change)


def test_labels_are_three_where_a_config_is_silent():
    assert spec_of(architectures=["BartForSequenceClassification"]).head.num_labels == 3


def test_the_files_of_one_relative_are_not_read_as_anothers(tmp_path):
    folder = folder_of(MBart(), tmp_path / "x", **BASE)
    rewritten(folder, model_type="bart", architectures=["BartForConditionalGeneration"])
    with pytest.raises(CheckpointError, match=r"no rule reads: .*layer_norm.*is this a mbart checkpoint\?"):
        load(folder)


def test_what_no_relative_says_is_not_written():
    spec = spec_of()
    for changed, place in (
        (spec.replace(share_tokens=False), "model.share_tokens"),
        (spec.replace(encoder=spec.encoder.replace(final_norm=spec.embedding.norm)), "model.encoder.final_norm"),
        (spec.replace(embedding=spec.embedding.replace(scale=2.0)), "model.embedding.scale"),
        (spec.replace(head=spec.head.replace(bias=False)), "model.head.bias"),
    ):
        with pytest.raises(CheckpointError, match=place):
            Bart().config_from(changed)


def test_a_row_is_read_as_a_vector_and_written_as_a_row():
    rule = Row("a", "b")
    assert torch.equal(rule.load([torch.tensor([[1.0, 2.0]])], None)[0], torch.tensor([1.0, 2.0]))
    assert rule.save([torch.tensor([1.0, 2.0])])[0].shape == (1, 2)
    for shape in ((2, 2), (4,)):
        with pytest.raises(ValueError, match="no single row"):
            rule.load([torch.zeros(shape)], None)
