"""LED: global tokens of the source as transformers takes them, positions of their own for either stack."""

import pytest
import torch

from attnlib import Layout, load
from attnlib.attention.masks import Causal, Global, Window
from attnlib.pretrained.families.led import LED
from attnlib.pretrained.family import HFConfig
from attnlib.pretrained.parity import theirs


def test_a_silent_config_is_that_of_the_published_models():
    made = LED().spec_from(HFConfig({"model_type": "led", "vocab_size": 99}))
    assert made.encoder.layers[3].attention.mask == Window(before=256, after=256) | Global()
    assert made.decoder.layers[3].attention.mask == Causal()
    assert (made.embedding.position.max_length, made.decoder_embedding.position.max_length) == (16384, 1024)


def test_global_tokens_are_those_of_transformers(tmp_path):
    pytest.importorskip("transformers")
    family = LED()
    hf = theirs.build(family, family.samples()["windows by layer"])
    hf.save_pretrained(tmp_path)
    ours = load(tmp_path)
    made = torch.Generator().manual_seed(2)
    ids, target = (torch.randint(5, 61, (2, tokens), generator=made) for tokens in (19, 5))
    mask, marks = torch.ones_like(ids), torch.zeros_like(ids)
    mask[1, 12:], marks[0, [0, 7, 18]], marks[1, 3] = 0, 1, 1
    with torch.no_grad():
        wanted = hf(ids, attention_mask=mask, global_attention_mask=marks, decoder_input_ids=target).logits
        without = hf(ids, attention_mask=mask, decoder_input_ids=target).logits
        found = ours(ids, target, Layout.from_mask(mask).tagged(global_tokens=marks)).logits
    assert (found - wanted).abs().max() <= 2e-5 * wanted.abs().max()
    assert (without - wanted).abs().max() > 1e-4 * wanted.abs().max()
