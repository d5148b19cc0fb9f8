"""Pieces that decoder families share."""

import pytest

from attnlib.attention.masks import Causal, Everything, picture
from attnlib.attention.softmax import SoftmaxAttentionSpec
from attnlib.errors import CheckpointError
from attnlib.models.block import BlockSpec
from attnlib.nn.norms import RMSNormSpec
from attnlib.pretrained.decoders import causal, kinds_from, layered, sliding, window_of
from attnlib.pretrained.family import HFConfig

F, S = "full_attention", "sliding_attention"


def test_a_window_of_a_config_counts_the_query_itself():
    assert picture(causal(2), 4) == "#...  ##..  .##.  ..##"
    assert causal() == Causal() and window_of(causal(2)) == 2 and window_of(Causal()) is None
    assert window_of(Everything()) is None


def test_layers_are_said_by_the_shortest_pattern_that_repeats():
    blocks = {kind: BlockSpec(attention=SoftmaxAttentionSpec(num_heads=heads)) for kind, heads in ((F, 2), (S, 1))}
    for kinds, pattern in (((S, F, S, F, S), (S, F)), ((S, S, F), (S, S, F)), ((F, F, S, F, F), (F, F, S))):
        stack = layered(kinds, blocks, RMSNormSpec())
        assert stack.pattern == pattern and stack.layers == tuple(blocks[kind] for kind in kinds)
    alike = layered((F, F), blocks, RMSNormSpec())
    assert alike.block == blocks[F] and not alike.blocks and alike.num_layers == 2


def test_layer_types_are_checked_against_the_layers_and_the_window():
    assert kinds_from(HFConfig({}), (F, S)) == (F, S)
    assert kinds_from(HFConfig({"layer_types": [S, S]}), (F, F)) == (S, S)
    for tree, text in (({"layer_types": [S]}, "names 1 layers, wish 2"), ({"layer_types": [F, "mamba"]}, "names 'mamba'")):
        with pytest.raises(CheckpointError, match=f"config.json: layer_types: {text}"):
            kinds_from(HFConfig(tree), (F, F))
    assert sliding(HFConfig({}), 3) == causal(3)
    for window in (None, 0):
        with pytest.raises(CheckpointError, match=f"sliding_window: is {window}, wish at least 1, since layers slide"):
            sliding(HFConfig({}), window)
