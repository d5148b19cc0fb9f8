"""Filling the blanks of a text with an encoder: each blank's likeliest tokens, or all of them filled at once."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from attnlib.errors import LayoutError, UsageError
from attnlib.generate.prompts import check_ids, need_head, vocab_of
from attnlib.tasks.ready import Ready, finite
from attnlib.text.tokenizer import Tokenizer


class Filling(NamedTuple):
    """One way to fill a blank: the token, its probability there, and the text with this blank filled."""

    id: int
    token: str
    probability: float
    text: str


def fill(ready: Ready, text: str, *, top_k: int = 5) -> list[list[Filling]]:
    """For each blank of the text, written as the tokenizer's mask ("[MASK]", "<mask>"), its likeliest tokens first.

    Probabilities are the model's own at that place, the other blanks being open; special tokens are left out.
    UsageError without a blank, a mask token, or a head over the vocabulary; LayoutError for texts that are too long.
    """
    if top_k < 1:
        raise UsageError("top_k", f"is {top_k}", "must be at least 1")
    model, tokenizer, ids = ready.model, ready.tokenizer, _blanked(ready.model, ready.tokenizer, text)
    row = torch.tensor([ids], device=ready.device)
    blank = row == tokenizer.need("mask")
    with torch.inference_mode():
        logits = model(row, at=blank).logits  # [N, V]
        need_head(model, logits)
        chances = finite(logits.float()).softmax(-1)[:, : tokenizer.vocab_size]
        chances = chances.masked_fill(_special(tokenizer, row.device), 0.0)
        best, tokens = chances.topk(min(top_k, int(tokenizer.ordinary.sum())), -1)
    found: list[list[Filling]] = []
    for place, some, sure in zip(blank[0].nonzero()[:, 0].tolist(), tokens.tolist(), best.tolist()):
        whole = [(token, [*ids[:place], token, *ids[place + 1 :]]) for token in some]
        texts = [_written(tokenizer, filled) for _, filled in whole]
        names = tokenizer.tokens(some)
        found.append([Filling(*one) for one in zip(some, names, sure, texts)])
    return found


def complete(ready: Ready, text: str) -> str:
    """The text with every blank filled: the surest blank first, each seen by those after it."""
    tokenizer = ready.tokenizer
    filled = fill_ids(ready.model, tokenizer, _blanked(ready.model, tokenizer, text), ready.device)
    return _written(tokenizer, filled)


def fill_ids(model: Any, tokenizer: Tokenizer, ids: list[int], device: torch.device | str = "cpu") -> list[int]:
    """The ids with every mask id replaced, by ordinary tokens only; `complete` for ids."""
    need_head(model)
    _fits(model, ids)
    mask, size = tokenizer.need("mask"), tokenizer.vocab_size
    row = torch.tensor([ids], device=device)
    with torch.inference_mode():
        while bool((blank := row == mask).any()):
            logits = model(row, at=blank).logits  # [N, V]
            need_head(model, logits)
            logits = finite(logits[:, :size].float()).masked_fill(_special(tokenizer, row.device), -torch.inf)
            sure, best = logits.softmax(-1).max(-1)
            surest = int(sure.argmax())
            place = blank[0].nonzero()[surest]
            row[0, place] = best[surest]
    return [int(i) for i in row[0].tolist()]


def _blanked(model: Any, tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a text with blanks, inside the tokenizer's template, checked."""
    need_head(model)
    mask = tokenizer.need("mask")
    ids = tokenizer.join(tokenizer.encode_blanks(text)).ids
    if mask not in ids:
        mark = tokenizer.special_names[mask]
        raise UsageError("text", "holds no blank", f"an encoder fills blanks, written {mark}", f"The {mark} sat.")
    check_ids([ids], vocab_of(model), "text")
    _fits(model, ids)
    return ids


def _fits(model: Any, ids: list[int]) -> None:
    if model.max_length is not None and len(ids) > model.max_length:
        raise LayoutError("text", f"has {len(ids)} tokens", f"the model's positions end at {model.max_length}")


def _special(tokenizer: Tokenizer, device: torch.device) -> Tensor:
    """[V] bool: ids that stand for no text."""
    return torch.from_numpy(~tokenizer.ordinary).to(device)


def _written(tokenizer: Tokenizer, ids: list[int]) -> str:
    """The text of ids, blanks that are still open written as such, the template left out."""
    before, after = tokenizer.template
    inner = ids[len(before) : len(ids) - len(after)]
    mask = tokenizer.need("mask")
    if mask not in inner:
        return tokenizer.decode(inner)
    parts: list[list[int]] = [[]]
    for i in inner:
        parts.append([]) if i == mask else parts[-1].append(i)
    return tokenizer.special_names[mask].join(tokenizer.decode(part) for part in parts)
