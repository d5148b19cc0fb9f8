"""Many texts through a model, sorted by length and, where attention can, packed end to end: no padding is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from attnlib.attention.backends.choose import backend_named
from attnlib.attention.backends.protocol import AttentionCall
from attnlib.attention.scope import Door, standing_at_the_door
from attnlib.layout import Layout
from attnlib.models.heads import read_head
from attnlib.tasks.ready import Ready, finite
from attnlib.text.tokenizer import Framed

BUDGET = 2048  # tokens of one forward: what the feed-forward makes of them still fits the caches of a core


class States(NamedTuple):
    """Final states x [B, T, M] of some rows, which stand at `numbers` among those given."""

    numbers: list[int]
    x: Tensor
    layout: Layout


def states(ready: Ready, rows: Sequence[Framed], *, budget: int = BUDGET) -> Iterator[States]:
    """The states of every row, in groups of like lengths; long texts first, so that memory does not grow later.

    A row's states do not depend on the rows beside it.
    """
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids), reverse=True)
    packed, at = packs(ready.model), 0
    run = _packed if packed else _padded
    while at < len(order):
        end, width = at + 1, len(rows[order[at]].ids)
        while end < len(order):
            width += len(rows[order[end]].ids) if packed else len(rows[order[at]].ids)
            if width > budget:
                break
            end += 1
        chosen = order[at:end]
        with torch.inference_mode():
            x, layout = run(ready, [rows[i] for i in chosen])
        yield States(chosen, finite(x), layout)
        at = end


def read(ready: Ready, found: States) -> Tensor:
    """What the model's head makes of the states: [B, T, L] of token heads, [B, L] of those that pool."""
    model = ready.model
    table = getattr(model, "decoder_embedding", None) or model.embedding
    with torch.inference_mode():
        found_logits = read_head(model.head, found.x, table.token.weight, found.layout, None, True).logits
    assert found_logits is not None
    return found_logits


def logits(ready: Ready, rows: Sequence[Framed]) -> list[Tensor]:
    """The head's logits of every row in float32 on the host, in the order given: [T, L], or [L] of a head that pools."""
    out: list[Any] = [None] * len(rows)
    for found in states(ready, rows):
        for number, one in zip(found.numbers, read(ready, found).float().cpu()):
            out[number] = one if one.dim() == 1 else one[: len(rows[number].ids)]
    return out


def packs(model: Any) -> bool:
    """Whether texts may stand end to end in one row at no cost: every mixer is attention that runs text by text.

    Asked of the model itself, with two texts of a token each.
    """
    asked = _Asked()
    ids = torch.zeros(1, 2, dtype=torch.long, device=model.embedding.token.weight.device)
    with torch.inference_mode(), standing_at_the_door(asked):
        _final(model, ids, Layout.packed([[1, 1]], device=ids.device), None)
    stacks = [model.stack] if not hasattr(model, "encode") else [model.encoder, model.decoder][: 1 + model.rereads]
    mixers = sum(1 + (block.cross is not None) for stack in stacks for block in stack.blocks)
    return len(asked.refusals) == mixers and not any(asked.refusals)


class _Asked(Door):
    """Notes why the backend that runs text by text would refuse each attention that passes."""

    def __init__(self) -> None:
        self.varlen, self.refusals = backend_named("varlen"), list[str | None]()

    def __call__(self, path: str, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall, run: Callable[[], Tensor]) -> Tensor:
        self.refusals.append(self.varlen.refuses(q, k, v, call))
        return run()


def _final(model: Any, ids: Tensor, layout: Layout, types: Tensor | None) -> Tensor:
    """[B, T, M] of the stack that reads texts: an encoder-decoder's encoder, unless its head tells of the source."""
    if hasattr(model, "encode"):
        out = model(ids, layout=layout, head=False) if model.rereads else model.encode(ids, layout)[0]
        return out.last  # type: ignore[no-any-return]
    return model(ids, layout, types=types, head=False).last  # type: ignore[no-any-return]


def _types(ready: Ready, rows: Sequence[Framed]) -> bool:
    table = getattr(ready.model.embedding, "token_type", None)
    return table is not None and table.weight.shape[0] > 1 and any(any(row.types) for row in rows)


def _packed(ready: Ready, rows: Sequence[Framed]) -> tuple[Tensor, Layout]:
    lengths = [len(row.ids) for row in rows]
    ids = torch.tensor([[i for row in rows for i in row.ids]], device=ready.device)
    types = torch.tensor([[i for row in rows for i in row.types]], device=ready.device) if _types(ready, rows) else None
    x = _final(ready.model, ids, Layout.packed([lengths], device=ready.device), types)
    x = pad_sequence(x[0].split(lengths), batch_first=True)  # [B, T, M]
    return x, Layout.from_lengths(lengths, device=ready.device)


def _padded(ready: Ready, rows: Sequence[Framed]) -> tuple[Tensor, Layout]:
    lengths = [len(row.ids) for row in rows]
    ids, types = (
        pad_sequence([torch.tensor(getattr(row, name)) for row in rows], batch_first=True).to(ready.device)
        for name in ("ids", "types")
    )
    layout = Layout.from_lengths(lengths, device=ready.device)
    return _final(ready.model, ids, layout, types if _types(ready, rows) else None), layout
