"""Features: an encoder reads frames of sound through convolutions where others look tokens up."""

import pytest
import torch
from torch.nn import functional as F

from attnlib.errors import LayoutError
from attnlib.inspect.describe import describe
from attnlib.inspect.explain import explain
from attnlib.layout import Layout
from attnlib.models.encoder_decoder import EncoderDecoderSpec
from attnlib.nn.features import ConvFeaturesSpec
from attnlib.nn.init import FanIn
from attnlib.spec import SpecErrors, read

torch.set_num_threads(1)
HEADS = {"num_heads": 2}
PAIR = {
    "d_model": 8, "vocab_size": 23,
    "features": {"kind": "conv", "channels": 3, "position": {"kind": "learned", "max_length": 6}},
    "encoder": {"num_layers": 1, "block": {"attention": HEADS}},
    "decoder": {"num_layers": 1, "block": {"attention": {**HEADS, "mask": "causal"}, "cross": HEADS}},
}  # fmt: skip


def pair(**changes):
    return read(EncoderDecoderSpec, {**PAIR, **changes})


@pytest.mark.parametrize("frames", [1, 2, 7, 8])
def test_places_are_made_of_frames_by_one_convolution_a_stride(frames):
    front = ConvFeaturesSpec(channels=3, strides=(2, 1, 2), kernel=5, activation="relu").build(4)
    x = torch.randn(2, 3, frames)
    expected = x
    for conv, stride in zip(front.convs, (2, 1, 2)):
        expected = F.relu(F.conv1d(expected, conv.weight, conv.bias, stride=stride, padding=2))
    assert front.stride == 4 and front.read(x).shape == (2, -(-frames // 4), 4)
    assert torch.allclose(front.read(x), expected.transpose(1, 2))


def test_a_model_of_features_writes_from_what_it_read_and_gradients_reach_the_frames():
    model, x, ids = pair().build(), torch.randn(2, 3, 12, requires_grad=True), torch.tensor([[1, 2, 3], [4, 5, 6]])
    out = model(x, ids)
    assert out.logits.shape == (2, 3, 23) and out.memory.last.shape == (2, 6, 8)
    out.logits.sum().backward()
    assert x.grad.abs().sum(1).count_nonzero() == 24
    with torch.no_grad():
        state = model.begin(x)
        steps = torch.cat([model.step(ids[:, i : i + 1], None, state) for i in range(3)], 1)
    torch.testing.assert_close(steps, out.logits)


@torch.no_grad()
def test_places_beyond_the_end_of_a_sound_are_not_attended_to():
    model, x, ids = pair().build(), torch.randn(1, 3, 8), torch.tensor([[1, 2]])
    short = model(x, ids).logits
    embeds = torch.cat([model.features.read(x), torch.randn(1, 2, 8)], 1)
    long = model(None, ids, Layout.from_lengths([4], 6), embeds=embeds).logits
    torch.testing.assert_close(long, short)


def test_what_is_no_feature_is_refused():
    model, ids = pair().build(), torch.tensor([[1, 2]])
    for wrong in (ids, torch.zeros(1, 4, 8), torch.zeros(3, 8), torch.zeros(1, 3, 8, dtype=torch.long)):
        with pytest.raises(LayoutError, match=r"features: are .*, must be floats \[batch, 3, frames\]"):
            model(wrong, ids)
    with pytest.raises(LayoutError, match="the text is 7 tokens long, at most 6 positions"):
        model(torch.zeros(1, 3, 14), ids)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"decoder_embedding": {}}, "decoder_embedding: given beside features"),
        ({"features": {"kind": "conv", "channels": 3, "kernel": 4}}, "kernel"),
        ({"features": {"kind": "conv", "channels": 3, "strides": []}}, "strides"),
        ({"features": {"kind": "conv", "channels": 3, "strides": [0]}}, "strides"),
    ],
)
def test_a_front_end_that_cannot_be_is_refused_when_the_config_is_read(changes, words):
    with pytest.raises(SpecErrors, match=words):
        pair(**changes)


def test_a_front_end_is_counted_and_explained():
    flops = {row.path: row.flops for row in describe(pair(), tokens=4).rows}
    assert flops["features.convs.0"] == 2 * 8 * 3 * 3 * 8  # two a multiplication, over 8 places
    assert flops["features.convs.1"] == 2 * 8 * 8 * 3 * 4
    assert "encoder.0.self" in str(explain(pair(), tokens=4))


def test_a_convolution_begins_by_all_that_it_reads():
    torch.manual_seed(0)
    weight = pair(init=FanIn(), features={"kind": "conv", "channels": 40}).build().features.convs[0].weight.detach()
    assert abs(float(weight.std()) * 120**0.5 - 1) < 0.15
