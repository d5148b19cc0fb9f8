"""What a model learned, shown on held-out rows: continuations, filled blanks, answers, labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attnlib.train import Config, TrainResult
    from attnlib.train.data import Row

COUNT, PROMPT, NEW = 3, 80, 160  # samples, characters of a prompt, new tokens


def samples(result: TrainResult, config: Config, base: Path | None = None) -> Iterator[tuple[str, str]]:
    """(title, text) of each sample; none where nothing is held out."""
    splits = config.data.load(result.objective.columns, base)
    rows = list(splits.held_out)[:COUNT]
    make = {"causal_lm": _continued, "masked_lm": _filled, "seq2seq": _answered, "classify": _labelled}
    show = make.get(result.objective.kind)
    if rows and show is not None:
        yield from show(result, config, rows)


def _continued(result: TrainResult, config: Config, rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    from attnlib.generate import generate

    prompts = [_words(text, PROMPT) for text in _stretches(rows, PROMPT)]
    room = result.model.max_length
    for seed, prompt in enumerate(prompts):
        ids = [*result.tokenizer.template[0], *result.tokenizer.encode(prompt)]
        new = NEW if room is None else min(NEW, room - len(ids))
        if not ids or new < 1:
            continue
        made = generate(result.model, [ids], tokenizer=result.tokenizer, max_new_tokens=new, temperature=0.8,
                        top_p=0.95, seed=seed)[0]  # fmt: skip
        yield "continued (after the bar)", f"{prompt}|{made.text}"


def _filled(result: TrainResult, config: Config, rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    import numpy as np

    from attnlib.tasks.filling import fill_ids

    tokenizer, (before, after) = result.tokenizer, result.tokenizer.template
    for number, text in enumerate(_stretches(rows, 2 * PROMPT)):
        ids = tokenizer.encode(_words(text, 2 * PROMPT))[: config.train.length - len(before) - len(after)]
        rng = np.random.default_rng(number)
        blanks = sorted(rng.permutation(len(ids))[: max(1, len(ids) * 15 // 100)].tolist())
        hidden = [tokenizer.need("mask") if i in blanks else t for i, t in enumerate(ids)]
        device = next(result.model.parameters()).device
        filled = fill_ids(result.model, tokenizer, [*before, *hidden, *after], device)[len(before) :][: len(ids)]
        right = sum(filled[i] == ids[i] for i in blanks)
        shown = tokenizer.decode(hidden, special=True)
        yield f"filled ({right} of {len(blanks)} blanks right)", f"{shown}\n{tokenizer.decode(filled)}"


def _answered(result: TrainResult, config: Config, rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    from attnlib.generate import generate

    tokenizer = result.tokenizer
    ids = [tokenizer.encode(row["source"], eos=True)[-config.train.length :] for row in rows]
    made = generate(result.model, ids, tokenizer=tokenizer, max_new_tokens=config.train.length)
    for row, one in zip(rows, made):
        said = (one.text or "").strip()
        verdict = "right" if said == row["target"].strip() else f"wished: {row['target']}"
        yield "answered", f"{row['source']}\n{said}  [{verdict}]"


def _labelled(result: TrainResult, config: Config, rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    import torch

    objective: Any = result.objective
    examples = objective.examples(rows, result.tokenizer, config.train.length, training=False)
    device = next(result.model.parameters()).device
    batch = objective.batch([examples.example(i) for i in range(len(examples))], result.tokenizer, []).to(device)
    with torch.inference_mode():
        found = objective.logits(result.model, batch)[0].argmax(-1).tolist()
    for row, label in zip(rows, found):
        yield "labelled", f"{_words(row['text'], 2 * PROMPT)}\n{objective.labels[label]}  [wished: {row['label']}]"


def _stretches(rows: Sequence[Row], width: int) -> list[str]:
    """Pieces of text from word to word: one a row, or several of one running text."""
    if len(rows) > 1 or not rows[0].running:
        return [row["text"] for row in rows]
    text = rows[0]["text"]
    starts = [len(text) * i // COUNT for i in range(COUNT)]
    places = [max(text.find(" ", start, start + width), start) for start in starts]
    return [text[at : at + 2 * width].lstrip() for at in places]


def _words(text: str, width: int) -> str:
    """At most `width` characters, to the end of a word."""
    cut = text[:width]
    return cut if len(text) <= width or " " not in cut else cut[: cut.rindex(" ")]
