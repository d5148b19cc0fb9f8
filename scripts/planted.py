"""Train a small model of each stack on texts whose evidence is known, and print how much of it each method finds.

    python scripts/planted.py [FOLDER] [key=value ...]

A minute of training on two free cores, and one of explaining. FOLDER (default runs/planted) gets a run of each stack;
overrides such as train.steps=100 go to each config. Printed of held-out texts: precision at 3 beside the base rate, the
rank correlation that each explanation keeps when the layers' weights are shuffled from the top down, and at the end every
method over all stacks with what is to be held of it. Exit code 1 where no method finds the evidence of a stack, or where
the random one is off its base rate.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: on a busy machine spinning threads starve each other

import numpy as np

from attnlib.cli import main
from attnlib.inspect.explanations import Method, ask, why
from attnlib.inspect.planted import FOR, Planted, base_rate, chance_spread, plant, precision, rows_of, verdict
from attnlib.inspect.question import Question
from attnlib.inspect.reading import read_text
from attnlib.inspect.sanity import sanity

BLOCK = "norm: layer, attention: {num_heads: 4, mask: MASK}, mlp: {kind: dense, d_ff: 128}"
WIDTHS = "d_model: 64, vocab_size: 36"
STACK = f"{{num_layers: 2, final_norm: layer, block: {{{BLOCK}}}}}"
CLASSIFIER = "head: {kind: classify, num_labels: 4, hidden: false, pooling: POOLING}"
MODELS = {
    "encoder": f"{{kind: encoder, {WIDTHS}, stack: {STACK.replace('MASK', 'everything')}, "
    f"{CLASSIFIER.replace('POOLING', 'first')}}}",
    "decoder": f"{{kind: decoder, {WIDTHS}, embedding: {{position: {{kind: learned, max_length: 27}}}}, "
    f"stack: {STACK.replace('MASK', 'causal')}, {CLASSIFIER.replace('POOLING', 'last')}}}",
    "encoder_decoder": f"{{kind: encoder_decoder, {WIDTHS}, decoder_start: 30, "
    f"encoder: {STACK.replace('MASK', 'everything')}, "
    f"decoder: {{num_layers: 1, final_norm: layer, block: {{{BLOCK.replace('MASK', 'causal')}, cross: {{num_heads: 4}}}}}}, "
    "head: {kind: lm, tied: false}}",
}
OBJECTIVES = {"encoder": "classify", "decoder": "classify", "encoder_decoder": "seq2seq"}
TRAIN, HELD, HELD_SEED, SANE = 20_000, 100, 99, 10
FOUND = 0.9  # precision that the best must reach


def config(kind: str) -> str:
    """The run of one stack: its model, and 25 s of training at the most."""
    train = f"objective: {OBJECTIVES[kind]}, steps: 400, batch_size: 64, length: 27, optimizer: {{kind: adamw, lr: 0.003}}"
    return (
        f"format: 1\nmodel: {MODELS[kind]}\ntrain: {{{train}, plot: false}}\ntokenizer: {{kind: chars, sentinels: 0}}\n"
        f"data: {{kind: jsonl, path: {kind}.jsonl, held_out: 200}}\nruntime: {{device: cpu}}\n"
    )


def train(kind: str, folder: Path, overrides: Sequence[str]) -> int:
    """Write the texts and the config of one stack, and train it."""
    rows = rows_of(plant(TRAIN, seed=0), kind)
    (folder / f"{kind}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (folder / f"{kind}.yaml").write_text(config(kind), encoding="utf-8")
    return main(["train", str(folder / f"{kind}.yaml"), "--folder", str(folder / kind), *overrides])


def questions(kind: str, folder: Path, held: Sequence[Planted]) -> list[Question]:
    """What makes the model give each held-out text its label?"""
    from attnlib.pretrained import load
    from attnlib.text import tokenizer_of
    from attnlib.train import checkpoint_of

    where = checkpoint_of(folder / kind)
    model, tokenizer = load(where), tokenizer_of(where)
    word = "next" if kind == "encoder_decoder" else "class"
    return [ask(model, read_text(model, tokenizer, one.text), f"{word}={one.label}", tokenizer=tokenizer) for one in held]


def report(kind: str, folder: Path) -> dict[str, float]:
    """Print what each method finds in one stack; the precision of each."""
    held = plant(HELD, HELD_SEED)
    asked = questions(kind, folder, held)
    print(f"\n{kind}: precision at {FOR} on {HELD} held-out texts, base rate {base_rate():.3f}")
    figures: dict[str, float] = {}
    for name in Method.known():
        found = [why(question, name) for question in asked]
        right = np.mean([np.exp(one.logprobs[0]) > 0.5 for one in found])
        figures[name] = float(np.mean([precision(one, planted) for one, planted in zip(found, held, strict=True)]))
        print(f"  {name:22s} {figures[name]:.3f}   (the model is right on {right:.0%})", flush=True)
    print(f"{kind}: rank correlation with 0, 1, 2, .. layers shuffled from the top, {SANE} texts")
    for one in sanity(asked[:SANE], list(Method.known())):
        print(f"  {one.method:22s} " + "  ".join(f"{value:5.2f}" for value in one.correlations), flush=True)
    return figures


def summary(figures: dict[str, dict[str, float]]) -> int:
    """Print methods x stacks, the best first; 0 where the task tells good methods from chance."""
    spread = chance_spread(HELD)
    print(f"\nprecision at {FOR}, base rate {base_rate():.3f} +- {spread:.3f}")
    print(f"  {'method':22s} " + "  ".join(f"{kind:>15s}" for kind in figures))
    names = sorted(Method.known(), key=lambda name: -sum(of[name] for of in figures.values()))
    for name in names:
        cells = "  ".join(f"{of[name]:15.3f}" for of in figures.values())
        print(f"  {name:22s} {cells}   {verdict({kind: of[name] for kind, of in figures.items()}, FOUND, spread)}")
    good = all(max(of.values()) >= FOUND for of in figures.values())
    fair = all(abs(of["random"] - base_rate()) <= 4 * spread for of in figures.values())
    return 0 if good and fair else 1


def run(folder: Path, overrides: Sequence[str]) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    for kind in MODELS:
        if code := train(kind, folder, overrides):
            return code
    return summary({kind: report(kind, folder) for kind in MODELS})


if __name__ == "__main__":
    given = sys.argv[1:]
    target = given.pop(0) if given and "=" not in given[0] else "runs/planted"
    sys.exit(run(Path(target), given))
