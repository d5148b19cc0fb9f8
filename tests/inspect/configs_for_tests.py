"""Model specs that differ in what costs, masks and caches: for describe, explain and check."""

from __future__ import annotations

from typing import Any

from attnlib.models.spec import ModelSpec
from attnlib.spec import read

BLOCK: dict[str, Any] = {"attention": {"num_heads": 4, "mask": "causal"}, "mlp": {"kind": "dense", "d_ff": 40}}


def attention(**changes: Any) -> dict[str, Any]:
    """A block with other attention."""
    return {**BLOCK, "attention": {**BLOCK["attention"], **changes}}


def decoder(block: dict[str, Any] | None = None, **changes: Any) -> ModelSpec:
    stack = {"num_layers": 2, "block": block or BLOCK, "final_norm": "rms"}
    return read(ModelSpec, {"kind": "decoder", "d_model": 24, "vocab_size": 61, "stack": stack, **changes})


def encoder(block: dict[str, Any] | None = None, **changes: Any) -> ModelSpec:
    stack = {"num_layers": 2, "block": block or attention(mask="everything")}
    return read(ModelSpec, {"kind": "encoder", "d_model": 24, "vocab_size": 61, "stack": stack, **changes})


def pair(**changes: Any) -> ModelSpec:
    heads = {"num_heads": 4, "d_head": 5, "scores": {"scale": 1.0}}
    block = {**BLOCK, "attention": heads}
    tree = {
        "kind": "encoder_decoder",
        "d_model": 24,
        "vocab_size": 61,
        "encoder": {"num_layers": 2, "bias": "t5_relative", "block": block, "final_norm": "rms"},
        "decoder": {
            "num_layers": 1,
            "bias": {"kind": "t5_relative", "both": False},
            "block": {**block, "attention": {**heads, "mask": "causal"}, "cross": heads},
        },
    }
    return read(ModelSpec, {**tree, **changes})


LOCAL = attention(mask=["causal", {"kind": "window", "before": 5}], num_kv_heads=2, rotary={})
SINKS = attention(
    mask=["causal", {"kind": "any", "masks": [{"kind": "window", "before": 4}, {"kind": "first", "count": 2}]}]
)
DYNAMIC = {"scaling": {"kind": "dynamic", "factor": 2.0, "original_length": 6}}

# its source is no text
FEATURES = pair(
    features={"kind": "conv", "channels": 5, "position": {"kind": "sinusoidal", "max_length": 40, "closed": True}},
    embedding={"position": {"kind": "learned", "max_length": 40}},
)
SPECS: dict[str, ModelSpec] = {
    "decoder": decoder(),
    "grouped, local": decoder(LOCAL),
    "local and global": decoder(
        stack={
            "num_layers": 3,
            "blocks": {"local": LOCAL, "global": attention(rotary={"base": 1e6}, num_kv_heads=1)},
            "pattern": ["local", "local", "global"],
        }
    ),
    "sinks kept": decoder(SINKS),
    "softcap, sink logits": decoder(attention(scores={"softcap": 3.0, "normaliser": "softmax_sink"})),
    "alibi": decoder(attention(term="alibi")),
    "shaw, qk-norm": decoder(attention(term={"kind": "shaw", "max_distance": 3}, qk_norm="head")),
    "disentangled": decoder(
        stack={"num_layers": 2, "block": BLOCK, "bias": {"kind": "disentangled", "buckets": 4, "max_distance": 9}}
    ),
    "weights shared": decoder(stack={"num_layers": 4, "block": LOCAL, "sharing": {"cycle": 2}}),
    "rotary by length": decoder(attention(rotary=DYNAMIC)),
    "chunks": decoder(attention(mask=["causal", {"kind": "chunk", "size": 4}])),
    "parallel, unlike widths": decoder({**attention(d_head=7, bias=True), "placement": "parallel"}),
    "no head": decoder(head="none"),
    "classifier": decoder(head={"kind": "classify", "num_labels": 3, "pooling": "last"}),
    "sinusoidal": decoder(embedding={"position": "sinusoidal", "scale": "sqrt"}),
    "zeroed": decoder(init={"kind": "normal", "zero_out": True}),
    "encoder": encoder(head="masked_lm", embedding={"position": {"kind": "learned", "max_length": 40}, "types": 2}),
    "local encoder": encoder(attention(mask={"kind": "window", "before": 3, "after": 2}), head="embed"),
    "pair": pair(),
    "pair without head": pair(head="none"),
    "two vocabularies": pair(
        decoder_vocab_size=43, decoder_embedding={"d_embedding": 12}, head={"kind": "lm", "tied": False}
    ),
    "pair, tokens shared": pair(
        embedding={"position": {"kind": "sinusoidal", "max_length": 40, "stored": True}, "norm": "layer", "scale": "sqrt"},
        decoder_embedding={"position": {"kind": "learned", "max_length": 40, "offset": 2}, "norm": "layer"},
        share_tokens=True,
        head={"kind": "lm", "bias": True},
    ),
}
