"""Foreign names of activations: each is one of ours, and each of ours has a name."""

import typing

import pytest
import torch

from attnlib.errors import CheckpointError
from attnlib.nn.feed_forward import ACTIVATIONS, Activation
from attnlib.pretrained.activations import OURS, activation_from, activation_name
from attnlib.pretrained.family import HFConfig


@pytest.mark.parametrize("name", OURS)
def test_a_name_is_the_function_that_transformers_means(name):
    theirs = pytest.importorskip("transformers").activations.ACT2FN[name]
    x = torch.linspace(-6, 6, 301)
    torch.testing.assert_close(ACTIVATIONS[OURS[name]](x), theirs(x), rtol=1e-5, atol=1e-6)


def test_every_activation_of_ours_goes_out_and_comes_back():
    for ours in typing.get_args(Activation):
        assert activation_from(HFConfig({"act": activation_name(ours)}), "act", "relu") == ours
    assert activation_from(HFConfig({}), "act", "swish") == "silu"


def test_an_activation_that_is_not_built_is_refused_by_key():
    with pytest.raises(CheckpointError, match=r"config\.json: act: is 'mish', wish gelu or"):
        activation_from(HFConfig({"act": "mish"}), "act", "relu")


def test_a_family_keeps_its_own_spelling_of_what_has_several():
    assert activation_name("gelu_tanh", "gelu_pytorch_tanh") == "gelu_pytorch_tanh"
    assert activation_name("silu", "gelu_pytorch_tanh") == activation_name("silu") == "silu"
