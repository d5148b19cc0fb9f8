"""Padding, batching and packing change nothing of what a token gets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toys import ALL, DECODERS, ENCODERS, PAIRS, build, ids, laid, near, texts

from attnlib.layout import Layout

LENGTHS = (5, 2, 7)
SOURCES = (3, 6, 1)


def outputs_alone(model: nn.Module, rows: list[Tensor], sources: list[Tensor] | None) -> list[Any]:
    if sources is None:
        return [model(row[None]) for row in rows]
    return [model(source[None], row[None]) for source, row in zip(sources, rows)]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ALL)
def test_a_padded_batch_gives_each_row_what_it_gets_alone(name: str, side: str) -> None:
    model = build(name)
    rows, sources = texts(LENGTHS, 1), texts(SOURCES, 9) if name in PAIRS else None
    alone = outputs_alone(model, rows, sources)
    table, mask, layout = laid(rows, side)
    if sources is None:
        found = [model(table, layout), model(table, attention_mask=mask)]
    else:
        source, source_mask, source_layout = laid(sources, side)
        found = [
            model(source, table, source_layout, layout),
            model(source, table, attention_mask=source_mask, decoder_attention_mask=mask),
        ]
    for out in found:
        for i, one in enumerate(alone):
            near(out.last[i][mask[i] > 0], one.last[0])
            if one.pooled is not None:
                near(out.pooled[i], one.pooled[0])
                near(out.logits[i], one.logits[0])
            elif one.logits is not None:
                near(out.logits[i][mask[i] > 0], one.logits[0])
        assert torch.isfinite(out.last).all()


@pytest.mark.parametrize("name", [*DECODERS, *(n for n in ENCODERS if n not in ("classifier", "embedder"))])
def test_packed_texts_are_as_separate(name: str) -> None:
    model = build(name)
    rows = texts((3, 4, 5, 1), 5)
    alone = [model(row[None]).last[0] for row in rows]
    table = torch.zeros(2, 9, dtype=torch.long)
    table[0, :7], table[1, :6] = torch.cat(rows[:2]), torch.cat(rows[2:])
    last = model(table, Layout.packed([[3, 4], [5, 1]], 9)).last
    near(torch.cat([last[0, :7], last[1, :6]]), torch.cat(alone))


@pytest.mark.parametrize("name", PAIRS)
def test_packed_pairs_attend_to_their_own_source(name: str) -> None:
    model = build(name)
    rows, sources = texts((3, 4), 5), texts((2, 5), 8)
    alone = torch.cat([out.last[0] for out in outputs_alone(model, rows, sources)])
    out = model(torch.cat(sources)[None], torch.cat(rows)[None], Layout.packed([[2, 5]]), Layout.packed([[3, 4]]))
    near(out.last[0], alone)


@pytest.mark.parametrize("name", ["llama", "bert", "t5", "shaw"])
def test_pads_give_and_get_no_gradient(name: str) -> None:
    model = build(name)
    table, mask, layout = laid(texts(LENGTHS, 1), "right")
    embeds = torch.randn(*table.shape, 12, dtype=torch.float64, requires_grad=True)
    if name == "t5":
        source = ids(3, 4)
        out = model(source, decoder_embeds=embeds, decoder_layout=layout)
    else:
        out = model(embeds=embeds, layout=layout)
    out.last[mask > 0].square().sum().backward()
    assert embeds.grad is not None
    assert not embeds.grad[mask == 0].any() and embeds.grad[mask > 0].abs().sum(-1).all()


@pytest.mark.parametrize("name", ["dynamic", "longrope"])
def test_rotary_scales_each_text_by_its_own_length(name: str) -> None:
    """Past the original length (16) too: a long text beside a short one changes nothing of the short one."""
    model = build(name)
    rows = texts((20, 3, 18), 4)
    for side in ("left", "right"):
        table, mask, layout = laid(rows, side)
        last = model(table, layout).last
        for i, row in enumerate(rows):
            near(last[i][mask[i] > 0], model(row[None]).last[0])
    packed = model(torch.cat(rows[:2])[None], Layout.packed([[20, 3]])).last[0]
    near(packed, torch.cat([model(row[None]).last[0] for row in rows[:2]]))


def test_an_empty_row_stays_finite_and_disturbs_nobody() -> None:
    model = build("llama")
    out = model(ids(2, 4), Layout.from_lengths([4, 0], 4))
    assert torch.isfinite(out.last).all()
    near(out.last[:1], model(ids(2, 4)[:1]).last)
