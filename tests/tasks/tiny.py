"""Tiny encoders over bytes, every parameter drawn at random, for the tests of tasks."""

from __future__ import annotations

from typing import Any

import torch

from attnlib.models.spec import ModelSpec
from attnlib.spec import read
from attnlib.tasks import Ready
from attnlib.text.byte_level import ByteTokenizer

SELF = {"num_heads": 2, "bias": True}
BLOCK = {"placement": "post", "norm": "layer", "attention": SELF, "mlp": {"kind": "dense", "d_ff": 20}}
TREE = {
    "kind": "encoder", "d_model": 12, "vocab_size": 293, "stack": {"num_layers": 2, "block": BLOCK},
    "embedding": {"position": {"kind": "learned", "max_length": 60}, "types": 2, "norm": "layer"},
}  # fmt: skip
PAIR = {"num_layers": 1, "bias": "t5_relative", "block": BLOCK}
T5 = {
    "kind": "encoder_decoder", "d_model": 12, "vocab_size": 293, "decoder_start": 256, "encoder": PAIR,
    "decoder": {**PAIR, "block": {**BLOCK, "attention": {"num_heads": 2, "mask": "causal"}, "cross": {"num_heads": 2}}},
}  # fmt: skip


class Framing(ByteTokenizer):
    """Bytes with bos before and sep after, as encoders are trained."""

    template = ((257,), (259,))


def ready(tree: dict[str, Any] = TREE, *, framed: bool = True, **more: Any) -> Ready:
    """A model of the tree with `more` over it, its parameters from N(0, 1/2)."""
    model = read(ModelSpec, {**tree, **more}).build().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    return Ready(model, Framing() if framed else ByteTokenizer())
