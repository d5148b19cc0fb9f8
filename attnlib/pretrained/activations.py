"""Activations as foreign configs name them, and as ours do."""

from __future__ import annotations

from attnlib.nn.feed_forward import Activation
from attnlib.pretrained.family import HFConfig

OURS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
    "relu2": "squared_relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}  # of several names for one of ours the first is written


def activation_from(config: HFConfig, key: str, default: str) -> Activation:
    """The activation that a config names under `key`; one that we do not have is refused by key."""
    config.only(key, tuple(OURS))
    return OURS[config.get(key, str, default)]


def activation_name(activation: Activation, *spellings: str) -> str:
    """How a foreign config names one of ours: by one of a family's own `spellings` if that means it."""
    return next(name for name in (*spellings, *OURS) if OURS[name] == activation)
