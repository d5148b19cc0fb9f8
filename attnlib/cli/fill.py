"""Filling the blanks of a text with an encoder: the surest blank first, each seen by those after it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attnlib.errors import LayoutError, UsageError

if TYPE_CHECKING:
    import torch

    from attnlib.text.tokenizer import Tokenizer


def fill(model: Any, tokenizer: Tokenizer, text: str, device: torch.device | str = "cpu") -> str:
    """`text` with every mask mark of the tokenizer ("[MASK]", "<mask>") replaced by what the encoder finds likeliest.

    UsageError without a mark, a mask token, or a head over the vocabulary; LayoutError for texts that are too long.
    """
    from attnlib.generate.prompts import need_head

    need_head(model)
    mark = tokenizer.special_names.get(tokenizer.need("mask"), "")
    if not mark or mark not in text:
        raise UsageError("--prompt", "holds no blank", f"an encoder fills blanks, written {mark}", f"The {mark} sat.")
    ids: list[int] = []
    for number, part in enumerate(text.split(mark)):
        ids += [*([tokenizer.need("mask")] if number else []), *tokenizer.encode(part)]
    before, after = tokenizer.template
    filled = fill_ids(model, tokenizer, [*before, *ids, *after], device)
    return tokenizer.decode(filled[len(before) : len(filled) - len(after)])


def fill_ids(model: Any, tokenizer: Tokenizer, ids: list[int], device: torch.device | str = "cpu") -> list[int]:
    """The ids with every mask id replaced, by ordinary tokens only."""
    import torch

    from attnlib.generate.prompts import need_head

    if model.max_length is not None and len(ids) > model.max_length:
        raise LayoutError("--prompt", f"has {len(ids)} tokens", f"the model's positions end at {model.max_length}")
    mask, size = tokenizer.need("mask"), tokenizer.vocab_size
    row = torch.tensor([ids], device=device)
    special = torch.from_numpy(~tokenizer.ordinary).to(device)
    with torch.inference_mode():
        while bool((blank := row == mask).any()):
            logits = model(row, at=blank).logits  # [N, V]
            need_head(model, logits)
            logits = logits[:, :size].float().masked_fill(special, -torch.inf)
            sure, best = logits.softmax(-1).max(-1)
            surest = int(sure.argmax())
            place = blank[0].nonzero()[surest]
            row[0, place] = best[surest]
    return [int(i) for i in row[0].tolist()]
