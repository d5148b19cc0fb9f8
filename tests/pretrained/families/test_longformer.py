"""Longformer: windows by layer, global tokens as transformers takes them, and what is refused by key."""

import pytest
import torch

from attnlib import Layout, load
from attnlib.attention.masks import Causal, Global, Window
from attnlib.errors import CheckpointError
from attnlib.pretrained.families.longformer import Longformer
from attnlib.pretrained.family import HFConfig
from attnlib.pretrained.parity import theirs

BASE = {
    "model_type": "longformer", "vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 40, "max_position_embeddings": 32,
}  # fmt: skip


def spec(**changes):
    return Longformer().spec_from(HFConfig({**BASE, **changes}))


def test_half_a_window_stands_to_either_side_of_each_layer():
    assert [layer.attention.mask for layer in spec(attention_window=[4, 8]).stack.layers] == [
        Window(before=2, after=2) | Global(), Window(before=4, after=4) | Global()
    ]  # fmt: skip
    assert spec(attention_window=6).stack == spec(attention_window=[6, 6]).stack
    assert spec().stack.block.attention.mask == Window(before=256, after=256) | Global()


@pytest.mark.parametrize("window", [3, [4], [4, 5], "4", 0])
def test_windows_that_cannot_be_are_refused_by_key(window):
    with pytest.raises(CheckpointError, match="attention_window"):
        spec(attention_window=window)


def test_other_masks_are_what_no_config_says():
    made = spec(attention_window=4)
    block = made.stack.block
    other = block.replace(attention=block.attention.replace(mask=Causal()))
    with pytest.raises(CheckpointError, match="wish equal bounds"):
        Longformer().config_from(made.replace(stack=made.stack.replace(block=other)))


@pytest.mark.parametrize("sample", ["masked LM", "windows by layer", "pooler"])
def test_global_tokens_are_those_of_transformers(tmp_path, sample):
    pytest.importorskip("transformers")
    family = Longformer()
    hf = theirs.build(family, family.samples()[sample])
    hf.save_pretrained(tmp_path)
    ours = load(tmp_path)
    ids = torch.randint(5, 61, (3, 19), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    mask[1, 12:] = 0
    ids[mask == 0] = 1
    marks = torch.zeros_like(ids)
    marks[0, [0, 7, 18]], marks[1, 3] = 1, 1
    with torch.no_grad():
        wanted = hf(ids, attention_mask=mask, global_attention_mask=marks)
        found = ours(ids, Layout.from_mask(mask).tagged(global_tokens=marks))
    here, there = (found.last, wanted[0]) if sample == "pooler" else (found.logits, wanted[0])
    assert (here - there)[mask > 0].abs().max() <= 2e-5 * there.abs().max()
    assert (there - hf(ids, attention_mask=mask)[0])[mask > 0].abs().max() > 1e-3
