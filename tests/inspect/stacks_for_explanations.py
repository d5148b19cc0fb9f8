"""A toy of each of the three stacks, drawn at random in double precision, and the same by hand."""

from __future__ import annotations

from typing import Any

import torch
from naive import Naive, Trace
from torch import Tensor

from attnlib.inspect.explanations import ask
from attnlib.inspect.question import Question
from attnlib.inspect.reading import read
from attnlib.models.spec import ModelSpec
from attnlib.spec import read as read_spec

VOCAB = 17
IDS, SOURCE = [3, 1, 4, 1, 5, 9, 2], [6, 5, 3, 5, 8]
PLACES = {"position": {"kind": "learned", "max_length": 12}}


def _block(placement: str, norm: str, mlp: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"placement": placement, "norm": norm, "mlp": mlp} | more


def _tree(kind: str) -> dict[str, Any]:
    tree: dict[str, Any] = {"kind": kind, "d_model": 12, "vocab_size": VOCAB, "embedding": PLACES}
    heads = {"num_heads": 3}
    causal = heads | {"mask": "causal"}
    if kind == "decoder":
        block = _block("pre", "rms", {"kind": "gated", "d_ff": 10}, attention=causal)
        return tree | {"stack": {"num_layers": 2, "final_norm": "rms", "block": block}}
    if kind == "encoder":
        block = _block("post", "layer", {"kind": "dense", "d_ff": 10}, attention=heads | {"bias": True})
        tree["embedding"] = PLACES | {"types": 2, "norm": "layer"}
        head = {"kind": "classify", "num_labels": 4}
        return tree | {"stack": {"num_layers": 2, "block": block}, "head": head}
    dense = {"kind": "dense", "d_ff": 10, "activation": "silu", "bias": False}
    return tree | {
        "encoder": {"num_layers": 2, "final_norm": "rms", "block": _block("pre", "rms", dense, attention=heads)},
        "decoder": {
            "num_layers": 2, "final_norm": "rms", "block": _block("pre", "rms", dense, attention=causal, cross=heads),
        },
    }  # fmt: skip


TREES = {kind: _tree(kind) for kind in ("encoder", "decoder", "encoder_decoder")}


def drawn(tree: dict[str, Any], seed: int = 5) -> Any:
    """The model of a tree with every parameter drawn."""
    model = read_spec(ModelSpec, tree).build().double()
    made = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=made, dtype=torch.float64)
            parameter.copy_(0.5 * noise + (0.7 if parameter.dim() == 1 else 0.0))
    return model.eval().requires_grad_(False)


def question(kind: str, target: str | None = None) -> Question:
    """What the toy says of its text: a label, the next token, or each token that its decoder was given."""
    model = drawn(TREES[kind])
    reading = read(model, IDS, SOURCE if kind == "encoder_decoder" else None)
    return ask(model, reading, target)


def by_hand(asked: Question, **changes: Any) -> Naive:
    kind = asked.model.spec.kind
    state = dict(asked.model.state_dict())
    more: dict[str, Any] = {
        "encoder": {"norm": "layer", "eps": 1e-5, "placement": "post", "mlp": "gelu"},
        "decoder": {},
        "encoder_decoder": {"mlp": "silu"},
    }[kind]
    return Naive(state, heads=3, layers=2, **more, **changes)


def forward(asked: Question, naive: Naive, *, embeds: dict[str, Tensor] | None = None,
            hidden: dict[str, set[int]] | None = None) -> tuple[Tensor, Trace]:  # fmt: skip
    """The logits of every target's column [N, V] (or [N, L]) and what was seen on the way."""
    kind, trace = asked.model.spec.kind, Trace()
    embeds, hidden = embeds or {}, hidden or {}
    sides = {side.name: list(side.ids) for side in asked.sides}
    x = naive.embed(sides["text"], embeds.get("text"))
    if kind == "encoder_decoder":
        source = naive.embed(sides["source"], embeds.get("source"))
        memory = naive.stack("encoder", "encoder", source, trace, hidden.get("source"))
        x = naive.stack("decoder", "decoder", x, trace, hidden.get("text"), memory, hidden.get("source"))
    else:
        x = naive.stack("stack", kind, x, trace, hidden.get("text"))
    if kind == "encoder":
        pooled = torch.tanh(naive.linear("head.dense", x[:1]))
        return naive.linear("head.project", pooled).expand(len(asked.targets), -1), trace
    table = naive.p("embedding.token.weight")
    assert table is not None
    columns = [target.columns[0] for target in asked.targets]  # type: ignore[index]
    return x[columns] @ table.T, trace


def values(asked: Question, logits: Tensor) -> Tensor:
    """[N] each target's logit."""
    answers = [getattr(target, "answer", getattr(target, "label", 0)) for target in asked.targets]
    return logits[torch.arange(len(answers)), answers]
