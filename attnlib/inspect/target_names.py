"""How people name a target: what of a model's output is to be explained.

    next, next=whale, next=whale/ship     the next token of a decoder: the likeliest, one named, one rather than another
    written                               every token that was written, by the model or by whoever gave it
    mask, mask:PLACE, mask=whale          a masked token of an encoder: the first mark, or a place that is masked first
    class, class=2, class=2/0             a label of the whole text
    tag:PLACE, tag:PLACE=1                a label of one token
    span, span:3-5                        start and end of an answer

A PLACE is a token's number from 0, or a word of the text. `#42` is the token with that id.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attnlib.errors import LayoutError, UsageError, nearest
from attnlib.generate.prompts import device_of, is_kind, vocab_of
from attnlib.inspect.reading import Reading, checked, go_on
from attnlib.inspect.targets import ClassTarget, SpanTarget, Target, TokenTarget
from attnlib.models.heads import LMHead, MaskedLMHead, PooledHead, PretrainingHead, TokenHead

if TYPE_CHECKING:
    from attnlib.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Asked:
    """A target as it was named, with what is needed to find it."""

    text: str
    place: str
    answer: str
    against: str
    model: Any
    reading: Reading
    tokenizer: Tokenizer | None
    new_tokens: int
    first: int  # the column of the first token that was written

    def refuse(self, fact: str, wish: str, hint: str = "") -> UsageError:
        return UsageError(f"target {self.text}".rstrip(), fact, wish, hint)


Found = tuple[Reading, tuple[Target, ...]]


def find_targets(
    text: str | None,
    model: Any,
    reading: Reading,
    tokenizer: Tokenizer | None = None,
    *,
    written: Sequence[int] = (),
    new_tokens: int = 16,
) -> Found:
    """The targets that a text names and the reading that they belong to: masked, or with what was written after it.

    None stands for what the model's head is for. `written`: ids that go on after the reading; where there are none and the
    target needs them, the model writes at most `new_tokens`. An encoder-decoder's text after its start id is written too.
    Raises UsageError for a kind, a place or an answer that is not there, and for what the model has no head for.
    """
    first = 1 if reading.source is not None and not written else len(reading.text)
    reading = checked(model, go_on(reading, tokenizer, written))
    able = kinds_for(model)
    text = (able[0] if able else "") if text is None else text
    kind = re.split("[:=]", text, maxsplit=1)[0]
    named, equals, answers = text.removeprefix(kind).partition("=")
    place = named.removeprefix(":")
    answer, slash, against = answers.partition("/")
    asked = Asked(text, place, answer, against, model, reading, tokenizer, new_tokens, first)
    if kind not in KINDS and (text or able):
        raise asked.refuse("is unknown", f"wish one of {', '.join(KINDS)}", nearest(kind, KINDS))
    if (named and not place) or (equals and not answer) or (slash and not against):
        raise asked.refuse("has a sign with nothing after it", f"wish {kind} alone, or a name after the sign")
    if kind not in able:
        head = getattr(getattr(model.spec, "head", None), "kind", None) or type(model.head).__name__
        stack = model.spec.kind if model.spec is not None else type(model).__name__
        wish = f"it can be asked for {', '.join(able)}" if able else "wish a head that gives logits"
        raise asked.refuse(f"is not what the head {head!r} of this {stack} tells", wish)
    return KINDS[kind](asked)


def answer_names(model: Any, tokenizer: Tokenizer | None) -> Callable[[int], str]:
    """How an answer is told by its number: a label, or a token of the vocabulary."""
    head = model.head.tokens if isinstance(model.head, PretrainingHead) else model.head
    if not isinstance(head, LMHead | MaskedLMHead):
        return _labels(model).__getitem__
    return lambda i: f"#{i}" if tokenizer is None else tokenizer.tokens([i])[0]


def kinds_for(model: Any) -> tuple[str, ...]:
    """The kinds of target that a model has a head for, its first the default."""
    head = model.head.tokens if isinstance(model.head, PretrainingHead) else model.head
    if isinstance(head, LMHead | MaskedLMHead):
        if is_kind(model, "encoder"):
            return ("mask",)
        return ("next", "written") if is_kind(model, "decoder") else ("written", "next")
    if isinstance(head, PooledHead) and head.project is not None:
        return ("class",)
    if isinstance(head, TokenHead):
        return ("span",) if getattr(getattr(model.spec, "head", None), "kind", "") == "span" else ("tag",)
    return ()


def _next(asked: Asked) -> Found:
    column = len(asked.reading.text) - 1
    return asked.reading, (_token(asked, column, "next"),)


def _written(asked: Asked) -> Found:
    """Every token that was written, by whoever gave it or by the model now."""
    reading = asked.reading
    if asked.first == len(reading.text):
        from attnlib.generate import generate

        prompts = [list((reading.source or reading.text).ids)]
        more: dict[str, Any] = {} if reading.source is None else {"decoder_prompts": [list(reading.text.ids)]}
        made = generate(asked.model, prompts, max_new_tokens=_room(asked), tokenizer=asked.tokenizer, **more)[0]
        ids = made.ids[:-1] if made.finish_reason == "eos" and len(made.ids) > 1 else made.ids
        reading = go_on(reading, asked.tokenizer, ids)
    names, ids = reading.text.tokens, reading.text.ids
    targets = tuple(TokenTarget(names[c], c - 1, ids[c]) for c in range(max(asked.first, 1), len(ids)))
    if not targets:
        raise asked.refuse("nothing was written", "wish a text that goes on")
    return reading, targets


def _room(asked: Asked) -> int:
    limit, taken = asked.model.max_length, len(asked.reading.text)
    if limit is not None and taken >= limit:
        raise LayoutError("text", f"has {taken} tokens", f"the model's positions end at {limit}: nothing can follow")
    return asked.new_tokens if limit is None else min(asked.new_tokens, limit - taken)


def _mask(asked: Asked) -> Found:
    reading, mask = asked.reading, getattr(asked.tokenizer, "mask_id", None)
    if asked.place:
        column = _place(asked)
        if mask is None:
            raise asked.refuse("the tokenizer has no mask token", "wish a place that holds one already")
        assert asked.tokenizer is not None
        reading = reading.put(column, mask, asked.tokenizer.tokens([mask])[0])
    elif mask in reading.text.ids:
        column = reading.text.ids.index(mask)
    else:
        written = "" if mask is None or asked.tokenizer is None else f", written {asked.tokenizer.tokens([mask])[0]}"
        raise asked.refuse(f"the text holds no mask{written}", "wish one, or mask:PLACE, a word or the number of a token")
    return reading, (_token(asked, column, "mask", reading),)


def _class(asked: Asked) -> Found:
    if asked.place:
        raise asked.refuse(f"names a place {asked.place!r}", "a label of the whole text has none", "class=2")
    problem = getattr(asked.model.spec.head, "problem", None) if asked.model.spec is not None else None
    if problem == "regression":
        raise asked.refuse("the head gives numbers and no labels", "wish a head that classifies")
    label = _label(asked, asked.answer) if asked.answer else int(_logits(asked.model, asked.reading)[0].argmax())
    against = _label(asked, asked.against) if asked.against else None
    alone = problem == "multi_label" or len(_labels(asked.model)) == 1
    return asked.reading, (ClassTarget(_named(asked, "class", label, against), label, against, alone),)


def _tag(asked: Asked) -> Found:
    if not asked.place:
        raise asked.refuse("names no place", "wish tag:PLACE, a word or the number of a token")
    column = _place(asked)
    answer = _label(asked, asked.answer) if asked.answer else int(_logits(asked.model, asked.reading)[0, column].argmax())
    against = _label(asked, asked.against) if asked.against else None
    name = _named(asked, f"tag of {asked.reading.text.tokens[column]}", answer, against)
    return asked.reading, (TokenTarget(name, column, answer, against, len(_labels(asked.model)) == 1),)


def _span(asked: Asked) -> Found:
    side = asked.reading.text
    if asked.place:
        first, _, last = asked.place.partition("-")
        start, end = (_number(asked, part, len(side), "token") for part in (first, last or first))
    else:
        logits = _logits(asked.model, asked.reading)[0]  # [T, 2]
        both = logits[:, :1] + logits[:, 1]
        start, end = divmod(int(both.masked_fill(~torch.ones_like(both).triu().bool(), -torch.inf).argmax()), len(side))
    if end < start:
        raise asked.refuse("ends before it starts", "wish span:FIRST-LAST")
    return asked.reading, (SpanTarget(f"span {start}-{end}", start, end, len(side)),)


KINDS: dict[str, Callable[[Asked], Found]] = {
    "next": _next,
    "written": _written,
    "mask": _mask,
    "class": _class,
    "tag": _tag,
    "span": _span,
}


def _token(asked: Asked, column: int, kind: str, reading: Reading | None = None) -> TokenTarget:
    """The token asked for, or the likeliest, in a column."""
    if asked.place and kind == "next":
        raise asked.refuse(f"names a place {asked.place!r}", "the next token has none", "next=whale")
    against = _id(asked, asked.against) if asked.against else None
    if asked.answer:
        answer = _id(asked, asked.answer)
    else:
        answer = int(_logits(asked.model, reading or asked.reading)[0, column].argmax())
    names = [answer_names(asked.model, asked.tokenizer)(i) for i in (answer, against) if i is not None]
    return TokenTarget(f"{kind} {'/'.join(names)}", column, answer, against)


def _id(asked: Asked, text: str) -> int:
    """The one token that a text is."""
    if text[:1] == "#" and text[1:].isdigit():
        return _number(asked, text[1:], vocab_of(asked.model), "token")
    if asked.tokenizer is None:
        raise asked.refuse(f"names {text!r} and there is no tokenizer", "wish a token by its id, such as #42")
    ids = asked.tokenizer.encode(text)
    if len(ids) != 1:
        parts = " ".join(asked.tokenizer.tokens(ids)) or "nothing"
        raise asked.refuse(f"{text!r} is {len(ids)} tokens: {parts}", "wish one token", "an id such as #42 also serves")
    return ids[0]


def _place(asked: Asked) -> int:
    side = asked.reading.text
    if asked.place.isdigit():
        return _number(asked, asked.place, len(side), "token")
    found = [word for word in side.words if word.text == asked.place]
    if not found:
        raise asked.refuse(f"{asked.place!r} is no word of the text", "wish a word or the number of a token",
                           nearest(asked.place, [word.text for word in side.words]))  # fmt: skip
    begun = [at for at in found[0].columns if side.text[slice(*(side.spans[at] or (0, 0)))].strip()]
    return begun[0] if begun else found[0].columns[0]  # a token of the space before a word is none of its letters


def _number(asked: Asked, text: str, count: int, what: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) < count):
        raise asked.refuse(f"{text!r} is no {what}", f"must lie in 0..{count - 1}")
    return int(text)


def _labels(model: Any) -> tuple[str, ...]:
    """The names of the head's labels; numbers where it has none."""
    given: tuple[str, ...] = getattr(getattr(model.spec, "head", None), "labels", ())
    return given or tuple(str(i) for i in range(model.head.project.out_features))


def _label(asked: Asked, text: str) -> int:
    labels = _labels(asked.model)
    if text in labels:
        return labels.index(text)
    if not text.isdigit():
        raise asked.refuse(f"{text!r} is no label", f"wish one of {', '.join(labels)}", nearest(text, labels))
    return _number(asked, text, len(labels), "label")


def _named(asked: Asked, name: str, label: int, against: int | None) -> str:
    labels = _labels(asked.model)
    return f"{name} {labels[label]}" + ("" if against is None else f" rather than {labels[against]}")


def _logits(model: Any, reading: Reading) -> Tensor:
    """What the model says of a reading: [1, T, V] or [1, L]."""
    device = device_of(model)
    rows = [torch.tensor([side.ids], device=device) for side in reading.sides]
    with torch.inference_mode():
        return model(*rows).logits.float()  # type: ignore[no-any-return]
