"""Small specs that together use every wiring, position scheme, mask and head; built with every parameter drawn at random."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from attnlib.layout import Layout
from attnlib.models.spec import ModelSpec
from attnlib.spec import read

VOCAB = 19

Tree = dict[str, Any]


def attention(**more: Any) -> Tree:
    return {"num_heads": 4, "mask": "causal"} | more


def block(placement: str = "pre", norm: Any = "rms", mlp: Any = None, **more: Any) -> Tree:
    return {"placement": placement, "norm": norm, "mlp": mlp or {"kind": "gated", "d_ff": 10}} | more


def rotary(kind: str | None = None, **scaling: Any) -> Tree:
    return {"base": 100.0} | ({} if kind is None else {"scaling": {"kind": kind} | scaling})


def decoder(layer: Tree | None = None, **more: Any) -> Tree:
    stack: Tree = {"num_layers": 2, "final_norm": "rms"}
    if layer is not None:
        stack["block"] = layer
    return {"kind": "decoder", "d_model": 12, "vocab_size": VOCAB, "stack": stack | more.pop("stack", {})} | more


def encoder(layer: Tree | None = None, **more: Any) -> Tree:
    return decoder(layer, **more) | {"kind": "encoder"}


LEARNED = {"position": {"kind": "learned", "max_length": 24}}
SINUSOIDAL = {"position": {"kind": "sinusoidal"}, "scale": "sqrt"}
WINDOW = ["causal", {"kind": "window", "before": 2}]
SINKS = ["causal", {"kind": "any", "masks": [{"kind": "first", "count": 2}, {"kind": "window", "before": 1}]}]
HALF = [1.0, 2.0]  # LongRoPE's factors: two pairs where 4 channels turn

NORMALISERS: list[Any] = ["sigmoid", "sparsemax", "entmax15", {"kind": "top_k", "count": 3}, "talking_heads"]
SCORES: list[Tree] = [
    {"scores": {"product": "bilinear"}, "num_kv_heads": 2},
    {"scores": {"product": "cosine"}, "num_kv_heads": 2, "bias": True},
    {"scores": {"scale": 0}, "term": "additive", "num_kv_heads": 2},
    {"term": {"kind": "transformer_xl", "max_distance": 5, "both": False}, "rotary": None},
    {"term": {"kind": "block_routing", "size": 2, "count": 2}, "num_kv_heads": 2},
]


def each(kinds: Iterable[Tree], **alike: Any) -> Tree:
    """A stack of one layer for each way of attention."""
    blocks = {f"b{i}": block(attention=attention(rotary=rotary()) | kind, **alike) for i, kind in enumerate(kinds)}
    return {"num_layers": len(blocks), "blocks": blocks, "pattern": [*blocks]}


DECODERS: dict[str, Tree] = {
    "gpt2": decoder(
        block("pre", "layer", {"kind": "dense", "d_ff": 10, "activation": "gelu_tanh"}, attention=attention(bias=True)),
        embedding=LEARNED,
    ),
    "llama": decoder(block(attention=attention(num_kv_heads=2, rotary=rotary())), head={"kind": "lm", "tied": False}),
    "multi_query": decoder(
        block(attention=attention(num_kv_heads=1, d_head=6, rotary=rotary() | {"fraction": 0.5, "interleaved": True}))
    ),
    "post": decoder(block("post", "layer", attention=attention(bias=["q", "v"])), embedding=SINUSOIDAL),
    "branch": decoder(block("branch", attention=attention(qk_norm="full", rotary=rotary()))),
    "sandwich": decoder(
        block("sandwich", {"kind": "rms", "unit_offset": True}, attention=attention(qk_norm="head", rotary=rotary()))
    ),
    "parallel": decoder(block("parallel", "layer", attention=attention(rotary=rotary()))),
    "parallel_shared": decoder(block("parallel", "layer", attention=attention(rotary=rotary()), share_norm=True)),
    "mixture": decoder(
        block(mlp={"kind": "mixture", "d_ff": 6, "num_experts": 3, "top_k": 2, "balance": 0.1}, attention=attention()),
        embedding=LEARNED,
    ),
    "no_norm": decoder(block(norm=None, attention=attention()), embedding=LEARNED),
    "alibi": decoder(block(attention=attention(term="alibi", num_kv_heads=2))),
    "t5_shared": decoder(block(attention=attention()), stack={"bias": {"kind": "t5_relative", "buckets": 8, "both": False}}),
    "t5_per_layer": decoder(block(attention=attention(term={"kind": "t5_relative", "buckets": 8, "max_distance": 9}))),
    "shaw": decoder(block(attention=attention(term={"kind": "shaw", "max_distance": 3}))),
    "disentangled": decoder(
        block(attention=attention(num_kv_heads=2)), stack={"bias": {"kind": "disentangled", "buckets": 4, "max_distance": 9}}
    ),
    "disentangled_per_layer": decoder(
        block(attention=attention(term={"kind": "disentangled", "buckets": None, "max_distance": 5, "share": False}))
    ),
    "softcap_sink": decoder(
        block(
            attention=attention(
                scores={"softcap": 3.0, "normaliser": "softmax_sink", "by_layer": True}, rotary=rotary(), num_kv_heads=2
            )
        ),
        head={"kind": "lm", "softcap": 5.0, "bias": True},
    ),
    "normalisers": decoder(stack=each({"scores": {"normaliser": kind}} for kind in NORMALISERS)),
    "scores": decoder(stack=each(SCORES)),
    "window": decoder(block(attention=attention(mask=WINDOW, rotary=rotary()))),
    "chunk": decoder(block(attention=attention(mask=["causal", {"kind": "chunk", "size": 3}], rotary=rotary()))),
    "sinks": decoder(block(attention=attention(mask=SINKS, rotary=rotary()))),
    "sinks_alibi": decoder(block(attention=attention(mask=SINKS, term="alibi"))),
    "local_global": decoder(
        stack={
            "num_layers": 3,
            "blocks": {
                "local": block(attention=attention(mask=WINDOW, rotary=rotary())),
                "global": block(attention=attention(rotary=rotary("linear", factor=2.0))),
            },
            "pattern": ["local", "global"],
        }
    ),
    "linear": decoder(block(attention=attention(d_head=4, rotary=rotary("linear", factor=3.0)))),
    "dynamic": decoder(block(attention=attention(d_head=4, rotary=rotary("dynamic", factor=2.0, original_length=16)))),
    "llama3": decoder(block(attention=attention(d_head=4, rotary=rotary("llama3", original_length=8, factor=2.0)))),
    "yarn": decoder(block(attention=attention(d_head=4, rotary=rotary("yarn", original_length=8, factor=2.0)))),
    "longrope": decoder(
        block(
            attention=attention(
                d_head=4,
                rotary=rotary("longrope", original_length=16, factor=2.0, short_factor=HALF, long_factor=HALF[::-1]),
            )
        )
    ),
    "shared": decoder(
        block(attention=attention(num_kv_heads=2, rotary=rotary())),
        stack={"num_layers": 4, "sharing": {"groups": 2, "cycle": 1}},
    ),
    "factorised": decoder(
        block(attention=attention()),
        embedding={"d_embedding": 5, "norm": "layer"} | LEARNED,
        head={"kind": "masked_lm"},
    ),
}

ENCODERS: dict[str, Tree] = {
    "bert": encoder(
        block(
            "post", {"kind": "layer", "eps": 1e-12}, {"kind": "dense", "d_ff": 10}, attention={"num_heads": 4, "bias": True}
        ),
        embedding={"types": 2, "norm": "layer"} | LEARNED,
        head={"kind": "masked_lm"},
    ),
    "encoder_alibi": encoder(block(attention={"num_heads": 4, "term": "alibi"}), head={"kind": "tag", "num_labels": 3}),
    "encoder_shaw": encoder(
        block("sandwich", attention={"num_heads": 4, "term": {"kind": "shaw", "max_distance": 2}}), head={"kind": "span"}
    ),
    "encoder_conv": encoder(
        stack={
            "num_layers": 3,
            "blocks": {
                "first": block("post", "layer", attention={"num_heads": 2}, conv={"kernel": 3, "groups": 2}),
                "bare": block(attention={"num_heads": 2}, attention_norm=False, conv={"kernel": 5, "norm": None}),
            },
            "pattern": ["first", "bare"],
        },
        embedding={"d_embedding": 5, "norm": "layer", "norm_last": True, "project_bias": False, "types": 2},
        head={"kind": "masked_lm"},
    ),
    "encoder_disentangled": encoder(
        block("post", "layer", attention={"num_heads": 4, "bias": True, "d_head": 4, "qk_norm": "full"}),
        stack={"bias": {"kind": "disentangled", "buckets": 6, "max_distance": 9, "norm": "layer", "parts": ["p2c"]}},
    ),
    "encoder_t5": encoder(block(attention={"num_heads": 4, "num_kv_heads": 2}), stack={"bias": "t5_relative"}),
    "encoder_local": encoder(
        block(attention={"num_heads": 4, "mask": {"kind": "window", "before": 1, "after": 1}, "rotary": rotary()}),
        head={"kind": "lm"},
    ),
    "classifier": encoder(
        block("parallel", attention={"num_heads": 4, "rotary": rotary()}), head={"kind": "classify", "num_labels": 3}
    ),
    "embedder": encoder(block(attention={"num_heads": 4, "rotary": rotary()}), head={"kind": "embed"}),
}

CROSS = {"num_heads": 4}


def pair(encoder_block: Tree, decoder_block: Tree, bias: bool = False, **more: Any) -> Tree:
    stacks: list[Tree] = [{"num_layers": 2, "block": b, "final_norm": "rms"} for b in (encoder_block, decoder_block)]
    if bias:
        stacks[0]["bias"] = {"kind": "t5_relative", "buckets": 8}
        stacks[1]["bias"] = {"kind": "t5_relative", "buckets": 8, "both": False}
    return {"kind": "encoder_decoder", "d_model": 12, "vocab_size": VOCAB, "encoder": stacks[0], "decoder": stacks[1]} | more


PAIRS: dict[str, Tree] = {
    "t5": pair(
        block(attention={"num_heads": 4}), block(attention=attention(), cross=CROSS), True,
        head={"kind": "lm", "scale": "inverse_sqrt"},
    ),
    "bart": pair(
        block("post", "layer", attention={"num_heads": 4, "bias": True}),
        block("post", "layer", attention=attention(bias=True), cross={"num_heads": 4, "bias": True}),
        embedding=LEARNED, decoder_embedding=LEARNED,
    ),
    "rotary_pair": pair(
        block(attention={"num_heads": 4, "rotary": rotary()}),
        block("sandwich", attention=attention(rotary=rotary(), mask=SINKS), cross=CROSS | {"num_kv_heads": 2, "d_head": 4}),
        head={"kind": "lm", "tied": False, "bias": True},
    ),
}  # fmt: skip

# softmax attention that does more: in each stack, those that cross as cross-attention too
KINDS: dict[str, Tree] = {
    "gated": {"kind": "gated", "num_heads": 4, "num_kv_heads": 2, "rotary": rotary()},
    "gated_channels": {"kind": "gated", "num_heads": 2, "gate": "channel"},
    "differential": {"kind": "differential", "num_heads": 4, "num_kv_heads": 2, "rotary": rotary()},
    "forgetting": {"kind": "forgetting", "num_heads": 4, "num_kv_heads": 2, "gate": "head"},
}
KINDS["latent"] = {"kind": "latent", "num_heads": 3, "d_latent": 5, "d_rope": 2, "rotary": rotary(), "d_value": 2}
KINDS["latent_queries"] = KINDS["latent"] | {"d_latent": 40, "d_query_latent": 7, "scores": {"scale": 0.4}}
DECODERS |= {name: decoder(block(attention=tree | {"mask": "causal"})) for name, tree in KINDS.items()}
DECODERS["latent_sinks"] = decoder(block(attention=KINDS["latent"] | {"mask": SINKS}))
DECODERS["forgetting_sinks"] = decoder(block(attention=KINDS["forgetting"] | {"mask": SINKS, "gate": None}))
ENCODERS |= {
    f"encoder_{name}": encoder(block(attention=KINDS[name])) for name in ("gated", "differential", "forgetting", "latent")
}
LINFORMER = {"kind": "linformer", "num_heads": 4, "num_kv_heads": 2, "rank": 3, "max_length": 24}
NYSTROM = {"kind": "nystrom", "num_heads": 4, "num_kv_heads": 2, "num_landmarks": 3, "kernel": 5}
ENCODERS |= {
    "encoder_linformer": encoder(block(attention=LINFORMER | {"share": True, "rotary": rotary()})),
    "encoder_nystrom": encoder(block(attention=NYSTROM | {"rotary": rotary()})),
    "encoder_landmarks": encoder(block(attention=NYSTROM | {"kernel": None, "num_landmarks": 5, "length": 24})),
}
PAIRS["pair_low_rank"] = pair(block(attention=NYSTROM), block(attention=attention(), cross=LINFORMER))
PAIRS |= {
    f"pair_{name}": pair(block(attention=tree), block(attention=tree | {"mask": "causal"}, cross=tree | {"rotary": None}))
    for name, tree in KINDS.items()
    if name in ("gated", "differential", "latent")
}

# what mixes tokens other than by softmax: a new kind is one more line here, and meets every test of this folder
MIXERS: dict[str, Tree] = {
    "elu": {"kind": "linear", "num_heads": 3, "rotary": rotary(), "conv": 3},
    "performer": {"kind": "performer", "num_heads": 3, "num_features": 10, "num_kv_heads": 1},
    "retention": {"kind": "retention", "num_heads": 2, "rotary": rotary(), "d_value": 5},
    "gla": {"kind": "gla", "num_heads": 4, "num_kv_heads": 2},
    "delta": {"kind": "delta", "num_heads": 3, "conv": 4},
    "gated_delta": {"kind": "gated_delta", "num_heads": 2, "num_kv_heads": 1, "conv": 2},
    "ssd": {"kind": "ssd", "num_heads": 4, "d_state": 3, "groups": 2, "conv": 4},
    "gru": {"kind": "gru"},
    "lstm": {"kind": "lstm", "d_hidden": 5},
    "min_gru": {"kind": "min_gru", "d_hidden": 7},
    "beside": {"kind": "beside", "mixers": [{"num_heads": 2}, {"kind": "gru", "d_hidden": 5}]},
}
_CAUSAL = {name: tree | {"mask": "causal"} for name, tree in MIXERS.items()}
_CAUSAL["beside"] = {"kind": "beside", "mixers": [{"num_heads": 2, "mask": WINDOW}, _CAUSAL["gru"] | {"d_hidden": 5}]}
DECODERS |= {f"mixer_{name}": decoder(block(attention=tree)) for name, tree in _CAUSAL.items()}
ENCODERS |= {f"encoder_{name}": encoder(block(attention=tree), head={"kind": "masked_lm"}) for name, tree in MIXERS.items()}
PAIRS |= {
    f"pair_{name}": pair(
        block(attention=MIXERS["delta"]),
        block(attention=MIXERS[name] | {"mask": "causal"}, cross=MIXERS[name] | {"rotary": None, "conv": None}),
    )
    for name in ("elu", "performer")
}

ALL = DECODERS | ENCODERS | PAIRS
CAUSAL = DECODERS | PAIRS  # those that decode


def build(name: str, *, dtype: torch.dtype = torch.float64, layers: int | None = None) -> nn.Module:
    """The model of that name, every parameter drawn, in eval mode; of so many layers where they are all alike."""
    tree = ALL[name]
    for key in ("stack", "encoder", "decoder") if layers is not None else ():
        if "block" in tree.get(key, ()) and "sharing" not in tree[key]:
            tree = tree | {key: tree[key] | {"num_layers": layers}}
    model = read(ModelSpec, tree).build().to(dtype)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            draw = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(draw * 0.4 + (0.5 if parameter.dim() == 1 else 0.0))
    return model.eval()


def ids(batch: int, tokens: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(VOCAB, (batch, tokens), generator=torch.Generator().manual_seed(seed))


def near(a: Tensor, b: Tensor, tolerance: float = 1e-9) -> None:
    assert a.shape == b.shape
    assert (a - b).abs().max().item() <= tolerance * max(1.0, b.abs().max().item())


def texts(lengths: tuple[int, ...], seed: int) -> list[Tensor]:
    return [ids(1, n, seed + i)[0] for i, n in enumerate(lengths)]


def laid(rows: list[Tensor], side: str) -> tuple[Tensor, Tensor, Layout]:
    """The rows padded on a side with a token that would matter if it were seen; the mask of ones; the layout."""
    width = max(len(row) for row in rows)
    table, mask = torch.full((len(rows), width), 7), torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        at = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        table[i, at], mask[i, at] = row, 1
    return table, mask, Layout.from_lengths([len(row) for row in rows], width, side=side)
