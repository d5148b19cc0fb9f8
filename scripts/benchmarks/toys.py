"""The three toys beside what one writes in an afternoon, each trained for the same time, one after the other."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from baselines import plain_encoder, plain_gpt, split_text

from attnlib.config import load_tree
from attnlib.spec import read
from attnlib.text.files import find_data
from attnlib.train import Config, Event, train
from benchmarks.table import Options, Row


@dataclass(frozen=True)
class Toy:
    """What a toy reached."""

    scores: dict[str, float]
    steps: int
    seconds: float
    parameters: int

    def __str__(self) -> str:
        return f"{self.parameters:,} parameters, {self.steps} steps in {self.seconds:.1f} s"


def toys(options: Options) -> Iterator[Row]:
    """GPT and BERT toys beside their baselines on the same text, T5 toy on statements and questions."""
    seconds = 4.0 if options.quick else options.seconds
    yield from _gpt(seconds, options.threads)
    yield from _bert(seconds, options.threads)
    yield from _t5(seconds, options.threads)


def _gpt(seconds: float, threads: int) -> Iterator[Row]:
    plain = plain_gpt(find_data("moby_dick.txt"), seconds=seconds, threads=threads)
    toy = _trained("gpt", seconds, threads)
    bits = toy.scores["eval_bits_per_character"]
    yield Row(name="toy gpt", ours=bits, baseline=plain.value, unit="bits/char", value=bits / plain.value, limit=0.87,
              note=f"Moby-Dick, last 10% held out, {threads} threads; ours {toy} (bfloat16 autocast); "
              f"plain torch GPT on characters {plain.parameters:,} parameters, {plain.steps} steps; "
              f"unigram {plain.guess:.2f} bits")  # fmt: skip


def _bert(seconds: float, threads: int) -> Iterator[Row]:
    toy = _trained("bert", seconds, threads)
    pieces = [torch.tensor(list(text.encode())) for text in split_text(find_data("moby_dick.txt"))]
    plain = plain_encoder(pieces[0], pieces[1], 256, seconds=seconds, threads=threads)
    accuracy = toy.scores["eval_masked_accuracy"]
    told = f"masked bytes of held-out Moby-Dick, {threads} threads; ours {toy}"
    yield Row(name="toy bert", ours=accuracy, baseline=plain.value, unit="accuracy", value=accuracy / plain.value,
              limit=1.0, below=False,
              note=f"{told}; nn.TransformerEncoder {plain.parameters:,} parameters, {plain.steps} steps")  # fmt: skip
    yield Row(name="toy bert/unigram", ours=accuracy, baseline=plain.guess, unit="accuracy", value=accuracy / plain.guess,
              limit=1.0, below=False, note="beside always the most frequent byte")  # fmt: skip


def _t5(seconds: float, threads: int) -> Iterator[Row]:
    toy = _trained("t5", seconds, threads)
    for name, prefix, limit in (("toy t5", "eval_", 0.99), ("toy t5 harder", "eval_harder_", None)):
        match = toy.scores[prefix + "exact_match"]
        told = "300 held-out pairs" if limit else "pairs with verb forms never seen in training"
        yield Row(name=name, ours=match, baseline=None, unit="share", judged="exact match", value=match, limit=limit,
                  below=False, note=f"statement to question, {told}, {threads} threads; {toy}")  # fmt: skip


def _trained(name: str, seconds: float, threads: int) -> Toy:
    """The bundled config, trained for `seconds` in a folder that goes away."""
    tree, marks = load_tree(f"tiny/{name}", (f"train.seconds={seconds}", f"runtime.threads={threads}", "train.plot=false"))
    config = read(Config, tree, marks=marks)
    with tempfile.TemporaryDirectory() as folder:
        result = train(config, folder=f"{folder}/run", report=_tell)
    parameters = sum(p.numel() for p in result.model.parameters())
    return Toy(result.scores, result.step, result.elapsed, parameters)


def _tell(event: Event) -> None:
    if event.what in ("start", "end"):
        print(f"  {event.text}", file=sys.stderr, flush=True)
