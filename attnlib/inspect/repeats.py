"""Texts written twice: what a model has learned to copy shows in the second copy, and so does what its heads are worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from attnlib.errors import LayoutError, UsageError
from attnlib.generate import generate
from attnlib.generate.prompts import blocks, device_of, evaluating, is_kind, need_head, start_of
from attnlib.inspect.ablation import ablated, mean_mixes
from attnlib.inspect.choice import attentions, heads_of
from attnlib.inspect.reading import Reading, go_on, read, read_text
from attnlib.layout import Layout

if TYPE_CHECKING:
    from attnlib.text.tokenizer import Tokenizer

TOGETHER = 4  # texts a forward whose logits are kept

def sampled(
    model: Any,
    count: int,
    *,
    tokenizer: Tokenizer,
    prompt: str = "",
    new_tokens: int = 100,
    temperature: float = 1.0,
    seed: int = 0,
) -> list[Reading]:
    """Texts that a decoder writes itself, drawn at a temperature, after a prompt or its start id."""
    if not is_kind(model, "decoder"):
        raise UsageError("sample", f"{type(model).__name__} models write no texts of their own", "wish a decoder, or texts")
    start = start_of(model, tokenizer, None)
    if not prompt and start is None:
        raise UsageError("sample", "there is no id to begin with", "wish a text to begin with")
    begun = read_text(model, tokenizer, prompt) if prompt else read(model, [start or 0], tokenizer=tokenizer)
    if not prompt:
        side = begun.text
        begun = replace(begun, text=replace(side, text="", spans=(None,) * len(side)))
    made = generate(model, [list(begun.text.ids)], tokenizer=tokenizer, n=count, max_new_tokens=new_tokens,
                    temperature=temperature, seed=seed)  # fmt: skip
    return [go_on(begun, tokenizer, [i for i in one.ids if i not in tokenizer.special_names]) for one in made]


def twice(model: Any, reading: Reading) -> Reading:
    """A decoder's or an encoder's text written twice in a row, between what the tokenizer puts around it."""
    side = reading.text
    if reading.source is not None or not side.own:
        raise UsageError("twice", "there is a source" if reading.source else "the text is empty", "wish a text of one stack")
    first, last = side.own[0], side.own[-1] + 1
    shift = len(side.text)
    again = tuple(None if span is None else (span[0] + shift, span[1] + shift) for span in side.spans[first:last])
    limit, ids = model.max_length, side.ids[:last] + side.ids[first:]
    if limit is not None and len(ids) > limit:
        raise LayoutError("twice", f"makes {len(ids)} tokens", f"the model's positions end at {limit}", "wish shorter texts")
    tokens, spans = side.tokens[:last] + side.tokens[first:], side.spans[:last] + again + side.spans[last:]
    return Reading(replace(side, ids=ids, tokens=tokens, text=side.text * 2, spans=spans))


@dataclass(frozen=True)
class Copies:
    """Mean loss of the first and of the second copy, nats a token over all texts."""

    first: float
    second: float


@dataclass(frozen=True)
class Ablation:
    """What texts written twice lose when heads are taken out, beside as many heads drawn at random from the others."""

    heads: tuple[str, ...]
    intact: Copies
    without: Copies
    random: tuple[Copies, ...]

    @property
    def rise(self) -> float:
        """By how much the loss of the second copy rises, nats a token."""
        return self.without.second - self.intact.second

    @property
    def rises(self) -> tuple[float, ...]:
        """The same of each random draw."""
        return tuple(one.second - self.intact.second for one in self.random)

    @property
    def beyond(self) -> bool:
        """Whether it rises by more than in any random draw."""
        return self.rise > max(self.rises)

    def tree(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        pairs = {"intact": self.intact, "without": self.without}
        return {"heads": list(self.heads), "random": [[one.first, one.second] for one in self.random],
                "beyond": self.beyond, **{name: [one.first, one.second] for name, one in pairs.items()}}  # fmt: skip


@torch.no_grad()
def copy_losses(model: Any, readings: Sequence[Reading]) -> Copies:
    """The loss of the next token in each copy of texts that `twice` wrote; the first token of a text may have none."""
    need_head(model)
    sums = np.zeros((2, 2))  # of each copy the sum and the count
    for first in range(0, len(readings), TOGETHER):
        some = readings[first : first + TOGETHER]
        ids, layout = _laid(model, some)
        logits = model(ids, layout).logits
        need_head(model, logits)
        losses = cross_entropy(logits[:, :-1].float().mT, ids[:, 1:], reduction="none").double().cpu()  # [B, T - 1]
        for reading, row in zip(some, losses):
            own = reading.text.own
            begin, middle, end = max(own[0] - 1, 0), own[len(own) // 2] - 1, own[-1]
            sums += [[float(row[a:b].sum()), b - a] for a, b in ((begin, middle), (middle, end))]
    return Copies(*(sums[:, 0] / sums[:, 1]).tolist())


def ablation(
    model: Any, readings: Sequence[Reading], heads: Sequence[str], *, zero: bool = False, draws: int = 20, seed: int = 0
) -> Ablation:
    """How texts written twice fare without some heads, and without as many others, drawn at random.

    In the place of a head's mix of values stands its mean over the texts, or, of `zero`, nothing: early heads that always
    add the same are then missed more than any that copy.
    Raises UsageError for heads that there are not, and where there are not as many others.
    """
    if not is_kind(model, "decoder"):
        raise UsageError("ablate", f"{type(model).__name__} models tell no next token", "wish a decoder")
    every = [f"{one.path}.{head}" for one in attentions(model) for head in range(heads_of(one.mixer))]
    others = [name for name in every if name not in heads]
    if not heads or len(others) < len(heads):
        raise UsageError("ablate", f"{len(heads)} of {len(every)} heads are named", "wish from 1 head to half of them")
    made = np.random.default_rng(seed)
    drawn = [[others[i] for i in made.permutation(len(others))[: len(heads)]] for _ in range(draws)]
    with evaluating(model), torch.no_grad():
        ids, layout = _laid(model, readings)
        instead = None if zero else mean_mixes(model, lambda: model(ids, layout, head=False), layout)
        found = []
        for gone in ([], list(heads), *drawn):
            with ablated(model, gone, instead):
                found.append(copy_losses(model, readings))
    return Ablation(tuple(heads), found[0], found[1], tuple(found[2:]))


def _laid(model: Any, readings: Sequence[Reading]) -> tuple[torch.Tensor, Layout]:
    rows = [list(reading.text.ids) for reading in readings]
    ids, layout, _ = next(blocks(rows, "right", max(map(len, rows)), device_of(model)))
    return ids, layout
