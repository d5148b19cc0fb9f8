"""Nystromformer: landmarks laid out over a length of their own, a convolution a head, positions from the third row on."""

import pytest
import torch
from foreign_folders import folder_of, goes_both_ways, refused

from attnlib import Layout, load
from attnlib.attention.nystrom import NystromSpec
from attnlib.errors import CheckpointError, LayoutError
from attnlib.nn.embeddings import LearnedSpec
from attnlib.pretrained.families.nystromformer import Nystromformer
from attnlib.pretrained.family import HFConfig

torch.set_num_threads(1)
SAMPLE = Nystromformer().samples()["masked LM"]
TINY = {**SAMPLE.config, "model_type": "nystromformer", "architectures": [SAMPLE.architecture]}


def spec_of(**keys):
    return Nystromformer().spec_from(HFConfig({**TINY, **keys}))


def test_every_config_comes_back():
    assert goes_both_ways("nystromformer")


def test_landmarks_convolution_and_positions_are_those_of_the_config():
    spec = spec_of()
    found = spec.stack.block.attention
    assert isinstance(found, NystromSpec)
    assert (found.num_landmarks, found.length, found.kernel, found.together) == (4, 20, 5, True)
    assert spec.embedding.position == LearnedSpec(max_length=20, offset=2)
    bare = Nystromformer().spec_from(HFConfig({k: v for k, v in TINY.items() if not k.startswith(("num_l", "seg", "conv"))}))
    attention = bare.stack.block.attention
    assert (attention.num_landmarks, attention.length, attention.kernel) == (64, 64, 65)  # which is softmax attention


def test_a_folder_reads_texts_up_to_its_length_and_of_its_landmarks_alone(tmp_path):
    folder = folder_of(Nystromformer(), tmp_path / "x", **TINY | {"max_position_embeddings": 40})
    model = load(folder)
    assert model.max_length == 20
    with pytest.raises(LayoutError, match="a text of 21 tokens"):
        model(torch.zeros(1, 21, dtype=torch.long))
    ids = torch.randint(5, 61, (1, 9), generator=torch.Generator().manual_seed(0))
    padded = torch.cat([ids, ids.new_zeros(1, 4)], 1)
    with torch.no_grad():
        alone, beside = model(ids).logits, model(padded, Layout.from_lengths([9], 13)).logits[:, :9]
    torch.testing.assert_close(beside, alone, rtol=0, atol=1e-5)


def test_the_convolution_has_one_row_a_head(tmp_path):
    folder = folder_of(Nystromformer(), tmp_path / "x", **TINY)
    name = "nystromformer.encoder.layer.1.attention.self.conv.weight"
    kind = {key: TINY[key] for key in ("model_type", "architectures")}
    assert "is no single row" in refused(folder, lambda t: t.update({name: torch.zeros(4, 2, 5, 1)}), **kind)


@pytest.mark.parametrize(("key", "value"), [("inv_coeff_init_option", True), ("tie_word_embeddings", False)])
def test_a_config_that_we_would_build_otherwise_is_refused_by_key(key, value):
    with pytest.raises(CheckpointError, match=key):
        spec_of(**{key: value})
