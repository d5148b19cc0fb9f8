"""Tiny runs for the tests of the trainer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from attnlib.spec import read
from attnlib.train import Config, Event, TrainResult, train

WORDS = "the whale rose and the sea ran high while old men sang of ships and salt and stars above the mast "
BLOCK = {"attention": {"num_heads": 2, "mask": "causal", "rotary": {}}, "mlp": {"kind": "dense", "d_ff": 48}}
GPT = {"kind": "decoder", "d_model": 24, "vocab_size": 293, "stack": {"num_layers": 2, "block": BLOCK, "final_norm": "rms"}}
ADAMW = {"kind": "adamw", "lr": 0.01}
MUON = {"kind": "muon", "lr": 0.05, "others": {"kind": "adamw", "lr": 0.01}}


def with_dropout(model: Mapping[str, Any], rate: float = 0.2) -> dict[str, Any]:
    """A decoder with dropout in its blocks."""
    return {**model, "stack": {**model["stack"], "block": {**model["stack"]["block"], "dropout": rate}}}


def config(
    folder: Path, *, model: Mapping[str, Any] = GPT, runtime: Mapping[str, Any] | None = None, **train: Any
) -> Config:
    """A config over a small text that is written beside `folder`."""
    text = folder.parent / "text.txt"
    text.parent.mkdir(parents=True, exist_ok=True)
    if not text.exists():
        text.write_text(WORDS * 12)
    section = {"batch_size": 4, "length": 16, "plot": False, "evaluate": {"at_end": False}, "optimizer": ADAMW, **train}
    tree = {
        "format": 1,
        "model": model,
        "data": {"kind": "text", "path": str(text)},
        "train": section if "seconds" in section else {"steps": 6, **section},
        "runtime": {"device": "cpu", **(runtime or {})},
    }
    return read(Config, tree)


def run(folder: Path, *, resume: bool = False, events: list[Event] | None = None, **choices: Any) -> TrainResult:
    """Train; events are appended to the list."""
    report = None if events is None else events.append
    return train(config(folder, **choices), folder=folder, resume=resume, report=report)


def rows(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    """Equal to the last bit."""
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def figures(folder: Path) -> list[dict[str, Any]]:
    """Its rows without what a clock says."""
    return [{key: row[key] for key in row if key not in ("elapsed", "tokens_per_second")} for row in rows(folder)]
