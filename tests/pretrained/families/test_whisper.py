"""Whisper: configs both ways, stored sinusoids, prefixes, and what is refused by key."""

import pytest
import torch
from foreign_folders import folder_of, rewritten

from attnlib.errors import CheckpointError
from attnlib.nn.embeddings import sinusoids
from attnlib.pretrained import load
from attnlib.pretrained.families.whisper import Whisper
from attnlib.pretrained.family import HFConfig

torch.set_num_threads(1)
BASE = {
    "vocab_size": 41, "d_model": 12, "encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 20,
    "decoder_ffn_dim": 16, "encoder_attention_heads": 3, "decoder_attention_heads": 2, "max_source_positions": 7,
    "max_target_positions": 9, "num_mel_bins": 5, "decoder_start_token_id": 40,
}  # fmt: skip


def spec_of(**changes):
    return Whisper().spec_from(HFConfig({**BASE, **changes}))


def test_a_config_says_its_spec_and_the_spec_its_config():
    spec = spec_of(dropout=0.2, activation_function="relu")
    assert Whisper().spec_from(HFConfig(Whisper().config_from(spec))) == spec
    assert (spec.features.dropout, spec.embedding.dropout, spec.decoder.block.dropout) == (0.2, 0.2, 0.2)
    assert spec.encoder.block.attention.bias == ("q", "v", "out") == spec.decoder.block.cross.bias


def test_sinusoids_begin_as_published_and_are_then_what_the_file_says(tmp_path):
    folder = folder_of(Whisper(), tmp_path / "x", **BASE)
    table = sinusoids(torch.arange(7), 12, order="half_split", closed=True)
    torch.testing.assert_close(load(folder).features.position.table, table)
    rewritten(folder, lambda tensors: tensors["model.encoder.embed_positions.weight"].mul_(2))
    torch.testing.assert_close(load(folder).features.position.table, 2 * table)


def test_files_without_a_prefix_are_the_same_model(tmp_path):
    def bare(tensors):
        changed = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
        tensors.clear()
        tensors.update(changed)

    folder, x, ids = folder_of(Whisper(), tmp_path / "x", **BASE), torch.randn(1, 5, 14), torch.tensor([[40, 3]])
    with torch.no_grad():
        expected = load(folder)(x, ids).logits
        assert torch.equal(load(rewritten(folder, bare))(x, ids).logits, expected)


@pytest.mark.parametrize(
    ("key", "value"),
    [("scale_embedding", True), ("apply_spec_augment", True), ("tie_word_embeddings", False), ("encoder_layerdrop", 0.1)],
)
def test_a_config_that_we_would_build_otherwise_is_refused_by_key(key, value):
    with pytest.raises(CheckpointError, match=f"{key}: is '{value}'"):
        spec_of(**{key: value})


def test_a_class_that_is_not_built_is_refused_by_name(tmp_path):
    folder = rewritten(folder_of(Whisper(), tmp_path / "x", **BASE), architectures=["WhisperForAudioClassification"])
    with pytest.raises(CheckpointError, match="names 'WhisperForAudioClassification', wish WhisperForConditionalGeneration"):
        load(folder)


def test_what_no_whisper_says_is_not_written():
    spec = spec_of()
    for changed, place in (
        (spec.replace(features=None), "model.features"),
        (spec.replace(features=spec.features.replace(strides=(2, 2))), "model.features.strides"),
        (spec.replace(embedding=spec.embedding.replace(position=None)), "positions"),
        (spec.replace(head=spec.head.replace(tied=False)), "model.head.tied"),
    ):
        with pytest.raises(CheckpointError, match=place):
            Whisper().config_from(changed)
