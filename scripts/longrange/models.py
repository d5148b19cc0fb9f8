"""One small model of every kind of mixer for every task."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import attnlib
from longrange.tasks import Task

HEADS: dict[str, Any] = {"num_heads": 2}
TURNED = HEADS | {"rotary": {"base": 10000.0}}
CONV = HEADS | {"conv": 4}  # a short convolution of q, k, v: what tells a linear mixer which token stood before
NEAR = {"kind": "window", "before": 16, "after": 16}
SINKS = {"kind": "any", "masks": [NEAR, {"kind": "first", "count": 4}]}
KINDS: dict[str, dict[str, Any]] = {
    "softmax": TURNED,
    "window 16": TURNED | {"mask": NEAR},
    "window 16, 4 first": TURNED | {"mask": SINKS},
    "top 4": TURNED | {"scores": {"normaliser": {"kind": "top_k", "count": 4}}},
    "block routing": TURNED | {"term": {"kind": "block_routing", "size": 8, "count": 2}},
    "differential": TURNED | {"kind": "differential"},
    "forgetting": TURNED | {"kind": "forgetting"},
    "latent": TURNED | {"kind": "latent", "d_latent": 32, "d_rope": 16},
    "linformer 8": TURNED | {"kind": "linformer", "rank": 8},
    "nystrom 8": TURNED | {"kind": "nystrom", "num_landmarks": 8},
    "linear": HEADS | {"kind": "linear"},
    "linear, conv": CONV | {"kind": "linear"},
    "performer, conv": CONV | {"kind": "performer"},
    "retention, conv": CONV | {"kind": "retention", "rotary": {"base": 10000.0}},
    "gla, conv": CONV | {"kind": "gla"},
    "delta": HEADS | {"kind": "delta"},
    "delta, conv": CONV | {"kind": "delta"},
    "gated_delta, conv": CONV | {"kind": "gated_delta"},
    "ssd, conv": CONV | {"kind": "ssd", "d_head": 32, "d_state": 32},
    "gru": {"kind": "gru"},
    "lstm": {"kind": "lstm"},
    "min_gru": {"kind": "min_gru"},
    "window + gru": {"kind": "beside", "mixers": []},
    "segments of 16, 4 memory tokens": TURNED,
}
MEMORY = {"segments of 16, 4 memory tokens": {"tokens": 4, "segment": 16}}  # of the stack
BOTH_WAYS = ("linformer", "nystrom")  # a decoder that reads a source has softmax attention beside them
CROSSING = ("differential", "latent", "linear", "linformer", "performer")  # others leave the source to softmax attention


def build(name: str, task: Task, width: int) -> nn.Module:
    """Two layers of `width` (an encoder-decoder: two and two); a source is read by the kind itself, where that can be.

    Raises SpecError, which says why, for a kind that the task's stack cannot hold.
    """
    room = max(task.room(n) for n in task.lengths)
    memory = {"memory": MEMORY[name]} if name in MEMORY else {}
    # embeddings of size 1: from 0.02 softmax attention did not learn recall of 16 pairs in 600 steps
    tree: dict[str, Any] = {"kind": task.stack, "d_model": width, "vocab_size": task.vocab,
                            "embedding": {"position": {"kind": "learned", "max_length": room}},
                            "init": {"kind": "fan_in", "embedding": 1.0, "zero_out": True}}  # fmt: skip
    if task.stack == "encoder_decoder":
        own = "softmax" if KINDS[name].get("kind") in BOTH_WAYS else name
        decoder = _stack(mixer(own, room, causal=True), width, cross=_crossing(name, room))
        tree |= {"encoder": _stack(mixer(name, room, causal=False), width) | memory, "decoder": decoder | memory}
    else:
        tree["stack"] = _stack(mixer(name, room, causal=task.stack == "decoder"), width) | memory
    tree["head"] = {"kind": "tag", "num_labels": task.vocab} if task.stack == "encoder" else {"kind": "lm", "tied": False}
    model: Any = attnlib.build(tree)
    with torch.no_grad():  # of a tenth of the tokens' size: as large as they, they hid them, and recall was not learned
        for name_of, parameter in model.named_parameters():
            if ".position." in name_of:
                parameter.mul_(0.1)
    return model  # type: ignore[no-any-return]


def mixer(name: str, room: int, *, causal: bool) -> dict[str, Any]:
    """The kind of that name for texts of up to `room` tokens, in one direction or both."""
    if name == "window + gru":
        return {"kind": "beside", "mixers": [mixer(part, room, causal=causal) for part in ("window 16", "gru")]}
    tree = dict(KINDS[name])
    if tree.get("kind") == "linformer":
        tree["max_length"] = room
    if causal:
        tree["mask"] = ["causal", tree["mask"]] if "mask" in tree else "causal"
    return tree


def _crossing(name: str, room: int) -> dict[str, Any]:
    """The kind as cross-attention, without what orders tokens of one text."""
    if KINDS[name].get("kind") not in CROSSING:
        return HEADS
    tree = mixer(name, room, causal=False)
    return {key: value for key, value in tree.items() if key not in ("conv", "rotary", "d_rope")}


def _stack(attention: dict[str, Any], width: int, *, cross: dict[str, Any] | None = None) -> dict[str, Any]:
    block: dict[str, Any] = {"norm": "rms", "attention": attention}
    block["mlp"] = {"kind": "gated", "d_ff": 2 * width, "activation": "silu"}
    if cross is not None:
        block["cross"] = cross
    return {"num_layers": 2, "final_norm": "rms", "block": block}
