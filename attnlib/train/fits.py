"""Whether a model's spec and a tokenizer fit what is to be learnt: told before anything is built."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from attnlib.attention.masks import Mask, picture
from attnlib.models.stack import StackSpec
from attnlib.text.tokenizer import Tokenizer

OVER_TOKENS = ("lm", "masked_lm")  # heads that give a logit for each id
_OTHERS = ("none", "classify", "embed", "tag", "span", "rtd", "pooler", "next_sentence", "pretraining")


def head_refusal(head: Any, wanted: Sequence[str]) -> str | None:
    """Why the head (its spec) gives other logits than one of the wanted kinds; heads of user modules are trusted."""
    if head.kind in wanted or head.kind not in (*OVER_TOKENS, *_OTHERS):
        return None
    return f"model.head is {head.kind}: use {either(wanted)}"


def vocabulary_refusal(model: Any, tokenizer: Tokenizer) -> str | None:
    """Why the model cannot read or say every id of the tokenizer."""
    for name in ("vocab_size", "decoder_vocab_size"):
        size = getattr(model, name, None)
        if size is not None and size < tokenizer.vocab_size:
            return f"model.{name} is {size}, and the tokenizer has {tokenizer.vocab_size} ids: set it to at least that"
    return None


def foresight(stack: StackSpec, path: str) -> str | None:
    """Why the stack would be shown what it is to predict: a self-attention mask that lets a token see a later one."""
    for layer, block in enumerate(stack.layers):
        mask = getattr(block.attention, "mask", None)
        if isinstance(mask, Mask) and sees_ahead(mask):
            return f"the attention mask of {path} layer {layer} sees tokens to come: add causal, as in mask: [causal]"
    return None


def looks_back(stack: StackSpec | None) -> bool:
    """Whether no token sees a later one in any layer, as far as masks say."""
    masks = [] if stack is None else [getattr(block.attention, "mask", None) for block in stack.layers]
    return bool(masks) and all(isinstance(mask, Mask) and not sees_ahead(mask) for mask in masks)


def sees_ahead(mask: Mask, tokens: int = 8) -> bool:
    """Whether any of the first tokens sees a later one."""
    rows = picture(mask, tokens).split()
    return any("#" in row[i + 1 :] for i, row in enumerate(rows))


def either(names: Iterable[str]) -> str:
    """The names with "or" between them."""
    return " or ".join(names) or "nothing yet"
