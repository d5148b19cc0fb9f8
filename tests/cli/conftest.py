"""Tiny configs of the three kinds, and a run of each, trained for a few steps through the command line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from attnlib.cli import main

BLOCK = "{attention: {num_heads: 2, mask: MASK, rotary: {}}, mlp: {kind: dense, d_ff: 48}}"
ENDING = "data: {kind: text, path: moby_dick.txt, held_out: 0.001}\nruntime: {threads: 1, device: cpu}\n"
TRAIN = "{steps: 2, batch_size: 2, length: 32, objective: OBJECTIVE, optimizer: {kind: adamw, lr: 0.01}}"

CONFIGS = {
    "gpt": f"""format: 1
model:
  kind: decoder
  d_model: 24
  vocab_size: 293
  stack: {{num_layers: 2, block: {BLOCK.replace("MASK", "[causal, {kind: window, before: 6}]")}, final_norm: rms}}
train: {TRAIN.replace("OBJECTIVE", "causal_lm")}
{ENDING}""",
    "bert": f"""format: 1
model:
  kind: encoder
  d_model: 24
  vocab_size: 293
  embedding: {{position: {{kind: learned, max_length: 40}}}}
  stack: {{num_layers: 2, block: {BLOCK.replace("MASK", "everything")}}}
  head: masked_lm
train: {TRAIN.replace("OBJECTIVE", "masked_lm")}
{ENDING}""",
    "t5": """format: 1
model:
  kind: encoder_decoder
  d_model: 24
  vocab_size: 293
  decoder_start: 256
  encoder:
    num_layers: 1
    bias: t5_relative
    block: &b {attention: &a {num_heads: 2, scores: {scale: 1.0}}, mlp: {kind: dense, d_ff: 48}}
  decoder:
    num_layers: 1
    bias: {kind: t5_relative, both: false}
    block: {<<: *b, attention: {<<: *a, mask: causal}, cross: *a}
data: {kind: jsonl, path: question_formation.jsonl, held_out: 4}
train: {steps: 2, batch_size: 2, length: 128, objective: seq2seq, optimizer: {kind: adamw, lr: 0.01}}
runtime: {threads: 1, device: cpu}
""",
}


@pytest.fixture(scope="session")
def configs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The config files by name."""
    folder = tmp_path_factory.mktemp("configs")
    for name, text in CONFIGS.items():
        (folder / f"{name}.yaml").write_text(text)
    return {name: folder / f"{name}.yaml" for name in CONFIGS}


@pytest.fixture(scope="session")
def runs(configs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of trained runs by name."""
    folder = tmp_path_factory.mktemp("runs")
    for name, config in configs.items():
        assert main(["train", str(config), "--folder", str(folder / name), "train.plot=false"]) == 0
    return {name: folder / name for name in configs}


@pytest.fixture(scope="session")
def shared_models() -> Path:
    """The folder of real models."""
    shared = os.environ.get("ATTNLIB_SHARED")
    if shared is None or not (Path(shared) / "models" / "stories15m").is_dir():
        pytest.skip("ATTNLIB_SHARED names no folder with models/stories15m")
    return Path(shared) / "models"
