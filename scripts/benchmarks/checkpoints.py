"""Checkpoint folders: from a cold process to the first token, and the peak memory of loading."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.table import Options, Row, compared

FIRST = {
    "attnlib": """
import sys, attnlib
model = attnlib.load(sys.argv[1])
assert attnlib.generate(model, [[1, 2, 3, 4]], max_new_tokens=1)[0].ids
""",
    "transformers": """
import sys, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
ids = torch.tensor([[1, 2, 3, 4]])
assert model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=1, do_sample=False).shape == (1, 5)
""",
}
PEAK = """
import sys, torch
from pathlib import Path
from attnlib.pretrained import load, read_spec
def resident(key):
    return int(Path("/proc/self/status").read_text().split(key + ":")[1].split()[0]) * 1024
torch.zeros(9) @ torch.zeros(9), read_spec(sys.argv[1])
before = resident("VmRSS")
model = load(sys.argv[1], dtype=getattr(torch, sys.argv[2], None))
sum(float(p.view(-1)[::512].sum()) for p in model.parameters())  # every page of what stays mapped
print(resident("VmHWM") - before, sum(p.nbytes for p in model.parameters()))
"""


def checkpoints(options: Options) -> Iterator[Row]:
    """A folder of GPT-2 small's shape with random weights, in float32 and in float16."""
    with tempfile.TemporaryDirectory() as place:
        whole, half = Path(place) / "float32", Path(place) / "float16"
        model = _model(options.quick)
        model.save_pretrained(whole)
        model.half().save_pretrained(half)
        del model
        yield _first_token(whole, options)
        if Path("/proc/self/status").exists():
            yield _peak("load, transposed", whole, "")
            yield _peak("load, float16 to float32", half, "float32")


def _model(quick: bool) -> object:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=64, n_head=4, vocab_size=500) if quick else GPT2Config())


def _first_token(folder: Path, options: Options) -> Row:
    taken: dict[str, list[float]] = {name: [] for name in FIRST}
    for name in FIRST:
        _seconds(name, folder, options.threads)  # files into the page cache
    for repeat in range(options.repeats):
        for name in list(FIRST)[:: 1 if repeat % 2 else -1]:
            taken[name].append(_seconds(name, folder, options.threads) * 1e3)
    return compared("first token", taken["attnlib"], taken["transformers"], limit=0.5,
                    note="a cold process: import, load GPT-2 small's shape, generate one token")  # fmt: skip


def _seconds(name: str, folder: Path, threads: int) -> float:
    code = f"import torch; torch.set_num_threads({threads})\n" + FIRST[name]
    cached = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}  # as an installed package
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, check=True, env=cached)
    return time.perf_counter() - begin


def _peak(name: str, folder: Path, dtype: str) -> Row:
    told = subprocess.run([sys.executable, "-c", PEAK, str(folder), dtype], capture_output=True, text=True, check=True)
    peak, final = (int(word) / 2**20 for word in told.stdout.split())
    return Row(name=name, ours=peak, baseline=final, unit="MiB", value=peak / final, judged="peak / final", limit=1.15,
               note="peak resident memory beyond the import, beside the bytes of the final tensors")  # fmt: skip
