"""One small model of every kind of mixer for every task."""

from __future__ import annotations

from typing import Any

from torch import nn

import attnlib
from longrange.tasks import Task

HEADS = {"num_heads": 2}
KINDS: dict[str, dict[str, Any]] = {
    "softmax": HEADS | {"rotary": {"base": 10000.0}},
    "window 16": HEADS | {"rotary": {"base": 10000.0}, "mask": {"kind": "window", "before": 16, "after": 16}},
    "linear": {"kind": "linear"} | HEADS,
    "linear, conv": {"kind": "linear", "conv": 4} | HEADS,
    "performer, conv": {"kind": "performer", "conv": 4} | HEADS,
    "retention": {"kind": "retention", "rotary": {"base": 10000.0}} | HEADS,
    "gla, conv": {"kind": "gla", "conv": 4} | HEADS,
    "delta, conv": {"kind": "delta", "conv": 4} | HEADS,
    "gated_delta, conv": {"kind": "gated_delta", "conv": 4} | HEADS,
    "ssd, conv": {"kind": "ssd", "conv": 4, "d_head": 32, "d_state": 32} | HEADS,
    "gru": {"kind": "gru"},
    "lstm": {"kind": "lstm"},
    "min_gru": {"kind": "min_gru"},
    "window + gru": {"kind": "beside", "mixers": []},
}
CROSSING = ("softmax", "linear", "performer")


def mixer(name: str, *, causal: bool) -> dict[str, Any]:
    """The kind of that name, in one direction or both."""
    if name == "window + gru":
        return {"kind": "beside", "mixers": [mixer(part, causal=causal) for part in ("window 16", "gru")]}
    tree = dict(KINDS[name])
    if causal:
        tree["mask"] = ["causal", tree["mask"]] if "mask" in tree else "causal"
    return tree


def build(name: str, task: Task, width: int) -> nn.Module:
    """Two layers of `width` (an encoder-decoder: two and two); it reads the source by its own kind, where that can be."""

    def stack(causal: bool, cross: bool = False) -> dict[str, Any]:
        block: dict[str, Any] = {"norm": "rms", "attention": mixer(name, causal=causal)}
        block["mlp"] = {"kind": "gated", "d_ff": 2 * width, "activation": "silu"}
        if cross:
            kind = name.split(",")[0]
            block["cross"] = HEADS | ({"kind": kind} if kind in CROSSING else {})
        return {"num_layers": 2, "final_norm": "rms", "block": block}

    room = max(task.room(n) for n in task.lengths)
    # embeddings of size 1: from 0.02 softmax attention did not learn recall of 16 pairs in 600 steps, from 1 in 400
    tree: dict[str, Any] = {"kind": task.stack, "d_model": width, "vocab_size": task.vocab,
                            "embedding": {"position": {"kind": "learned", "max_length": room}},
                            "init": {"kind": "fan_in", "embedding": 1.0, "zero_out": True}}  # fmt: skip
    if task.stack == "encoder_decoder":
        tree |= {"encoder": stack(False), "decoder": stack(True, cross=True), "head": {"kind": "lm", "tied": False}}
    elif task.stack == "encoder":
        tree |= {"stack": stack(False), "head": {"kind": "tag", "num_labels": task.vocab}}
    else:
        tree |= {"stack": stack(True), "head": {"kind": "lm", "tied": False}}
    return attnlib.build(tree)
