"""Embeddings of 2,000 real sentences beside transformers: its usual batches, and batches sorted by length."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.table import Options, Row, compared
from benchmarks.timing import interleaved

BOOK = Path(__file__).parents[2] / "configs" / "data" / "moby_dick.txt"
BATCH = 32


def sentences(count: int) -> list[str]:
    """So many sentences from the whole of the book, as they come."""
    found = re.split(r"(?<=[.!?]) (?=[A-Z\"“])", " ".join(BOOK.read_text(encoding="utf-8").split()))
    return found[:: len(found) // count][:count]


def embedding(options: Options) -> Iterator[Row]:
    """all-MiniLM-L6-v2, or another folder that transformers and attnlib both read."""
    from attnlib import tasks

    assert options.sentence_model is not None
    texts = sentences(64 if options.quick else 2000)
    ready = tasks.load(options.sentence_model, dtype=torch.float32)
    theirs = _theirs(options.sentence_model)
    repeats = min(options.repeats, 5)
    ours = lambda: lambda: tasks.embed(ready, texts)  # noqa: E731
    usual = interleaved(ours, lambda: lambda: theirs(texts), repeats=repeats, clock=options.clock)
    yield compared("embed, batches of 32", *usual, limit=0.25, note=f"{len(texts):,} sentences, ids and pooling included")
    by_length = sorted(texts, key=len)
    in_order = interleaved(ours, lambda: lambda: theirs(by_length), repeats=repeats, clock=options.clock)
    yield compared("embed, sorted by length", *in_order, limit=1 / 1.5, note="the same, batches of like lengths there")
    exact = tasks.embed(ready, texts).vectors
    yield _off("embed, difference", exact, theirs(texts), 1e-5, "largest difference of any number from transformers'")
    half = replace(ready, model=tasks.load(options.sentence_model, dtype=torch.bfloat16).model)
    taken = interleaved(lambda: lambda: tasks.embed(half, texts), ours, repeats=repeats, clock=options.clock)
    yield compared("embed, bfloat16", *taken, note="beside our own float32; fast where the processor multiplies bfloat16")
    rounded = tasks.embed(half, texts).vectors
    yield _off("embed, bfloat16 difference", rounded, exact, 0.01, "largest difference of any number from float32's")


def _theirs(folder: Path) -> Callable[[Sequence[str]], Tensor]:
    from transformers import AutoModel, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.inference_mode()
    def run(texts: Sequence[str]) -> Tensor:
        found = []
        for at in range(0, len(texts), BATCH):
            batch = tokenizer(texts[at : at + BATCH], padding=True, truncation=True, max_length=256, return_tensors="pt")
            states, mask = model(**batch).last_hidden_state, batch["attention_mask"][..., None]
            found.append(F.normalize((states * mask).sum(1) / mask.sum(1), dim=-1))
        return torch.cat(found)

    return run


def _off(name: str, ours: Tensor, theirs: Tensor, limit: float, note: str) -> Row:
    off = float((ours - theirs).abs().max())
    return Row(name=name, ours=off, baseline=None, unit="", value=off, judged="max |d|", limit=limit, note=note)
