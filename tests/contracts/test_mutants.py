"""Tests that cannot fail prove nothing: each mutant of the code, a word or two changed, must make its tests fail."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import attnlib

TESTS = Path(__file__).parents[1]
MASKS = "attention/test_masks.py"
ATTEND = "attention/test_attend.py"
DECODING = "models/test_decoding.py"
PADDING = "models/test_padding_and_packing.py"
PARTS = "nn/test_norms_and_feed_forward.py"


class Mutant(NamedTuple):
    name: str
    file: str
    old: str  # stands there exactly once
    new: str
    tests: str
    only: str = ""  # pytest -k


MUTANTS = [
    Mutant("gelu for gelu_tanh", "nn/feed_forward.py", 'F.gelu(x, approximate="tanh")', "F.gelu(x)", PARTS, "formula"),
    Mutant("squared relu not squared", "nn/feed_forward.py", "F.relu(x).square()", "F.relu(x)", PARTS, "formula"),
    Mutant(
        "another eps",
        "nn/norms.py",
        "self, width: int, *, eps: float = 1e-6",
        "self, width: int, *, eps: float = 1e-5",
        PARTS,
    ),
    Mutant("eps left out", "nn/norms.py", "keepdim=True) + self.eps)", "keepdim=True))", PARTS, "rms"),
    Mutant("unit offset lost", "nn/norms.py", "(1.0 + weight if", "(weight if", PARTS, "rms"),
    Mutant(
        "window off by one",
        "attention/masks.py",
        "q.position - k.position <= self.before",
        "q.position - k.position < self.before",
        MASKS,
        "picture",
    ),
    Mutant(
        "causal hides itself", "attention/masks.py", "k.position <= q.position", "k.position < q.position", MASKS, "picture"
    ),
    Mutant(
        "chunk claims too much",
        "attention/masks.py",
        "one = (queries[0] == queries[1]) & (keys[0] == keys[1]) & (queries[0] == keys[0])",
        "one = queries[0] == keys[0]",
        MASKS,
        "claims",
    ),
    Mutant(
        "a window keeps too little",
        "attention/masks.py",
        "return Retention(0, self.before)",
        "return Retention(0, self.before and self.before - 1)",
        DECODING,
        "window and rolling",
    ),
    Mutant(
        "other segments seen", "attention/visibility.py", "seen & (q.segment == k.segment) &", "seen &", PADDING, "packed"
    ),
    Mutant(
        "scale missing",
        "attention/backends/reference.py",
        "group(q, k.shape[1]).to(dtype) * scale",
        "group(q, k.shape[1]).to(dtype)",
        ATTEND,
        "masks_of and reference",
    ),
    Mutant(
        "softcap dropped",
        "attention/backends/reference.py",
        "call.rule.softcap * torch.tanh(scores / call.rule.softcap)",
        "scores",
        "contracts/test_backend_matrix.py",
        "one_token or step_rolling",
    ),
    Mutant("sdpa scale missing", "attention/backends/sdpa.py", "scale=call.rule.scale, ", "", ATTEND, "scale"),
    Mutant(
        "key gradient without scale",
        "attention/backends/chunked.py",
        "baddbmm_(a, b, alpha=scale)",
        "baddbmm_(a, b)",
        "contracts/test_extension.py",
        "gradcheck",
    ),
    Mutant(
        "blind queries see the mean",
        "attention/scores.py",
        "lowest).softmax(-1).masked_fill(~visible, 0.0)",
        "lowest).softmax(-1)",
        ATTEND,
        "nothing",
    ),
    Mutant(
        "sink of the wrong sign",
        "attention/scores.py",
        "torch.cat([scores, sink], -1)",
        "torch.cat([scores, -sink], -1)",
        "contracts/test_backend_matrix.py",
        "one_token or step_rolling",
    ),
    Mutant(
        "rotary sign",
        "attention/rotary.py",
        "turned = torch.cat([a * cos - b * sin",
        "turned = torch.cat([a * cos + b * sin",
        "attention/test_rotary.py",
    ),
    Mutant(
        "yarn factor",
        "attention/rotary.py",
        "0.1 * math.log(self.factor)",
        "0.2 * math.log(self.factor)",
        "attention/test_rotary.py",
    ),
    Mutant("alibi slopes", "attention/biases.py", "-8.0 * (i + 1)", "-8.0 * i", "attention/test_biases.py", "slopes"),
    Mutant(
        "t5 sides swapped",
        "attention/biases.py",
        "torch.where(distance > 0, buckets, 0)",
        "torch.where(distance < 0, buckets, 0)",
        "attention/test_biases.py",
        "buckets",
    ),
    Mutant(
        "static cursor stands",
        "attention/caches.py",
        "self.cursor = self.cursor + layout.tokens",
        "self.cursor = self.cursor",
        DECODING,
        "llama and static",
    ),
    Mutant(
        "rolling keeps the oldest",
        "attention/caches.py",
        "argsort(1)[:, far - last :]",
        "argsort(1)[:, :last]",
        DECODING,
        "ragged and window and rolling",
    ),
    Mutant(
        "select leaves the memory",
        "models/state.py",
        "[kept.select(rows) for kept in self.memory]",
        "self.memory",
        DECODING,
        "select and t5",
    ),
    Mutant(
        "pads counted as positions",
        "layout.py",
        "(real.long().cumsum(1) - 1).clamp(min=0)",
        "torch.arange(tokens).expand(batch, tokens)",
        "test_layout.py",
    ),
    Mutant(
        "pads in the mean", "models/heads/pooled.py", "return (x * weights).sum(1)", "return x.sum(1)", PADDING, "embedder"
    ),
    Mutant(
        "residual not scaled at the start",
        "nn/init.py",
        "math.sqrt(2 * num_layers)",
        "math.sqrt(num_layers)",
        "nn/test_init.py",
    ),
    Mutant(
        "post norm lost",
        "models/block.py",
        "x if self.outer is None else self.outer(x)",
        "x",
        "models/test_ordinary_modules.py",
        "reach and post",
    ),
]


def copied(folder: Path) -> Path:
    shutil.copytree(Path(attnlib.__file__).parent, folder / "attnlib", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


FORGE = """
import json, os, sys
import einops, numpy, pydantic, pytest, ruamel.yaml, safetensors, torch
for line in sys.stdin:
    folder, words, out = json.loads(line)
    child = os.fork()  # the package is not imported here: each child imports its own
    if not child:
        target = os.open(out, os.O_WRONLY | os.O_CREAT)
        os.dup2(target, 1), os.dup2(target, 2)
        sys.path.insert(0, folder)
        import attnlib
        assert attnlib.__file__.startswith(folder)
        code = int(pytest.main(words))
        sys.stdout.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def forge() -> Iterator[subprocess.Popen[str]]:
    """A process that has imported all but the package, and runs tests in copies of itself."""
    command = [sys.executable, "-c", FORGE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=TESTS.parent) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def run(forge: subprocess.Popen[str], folder: Path, mutant: Mutant) -> tuple[int, str]:
    """Exit code and output of a mutant's tests against the package in `folder`."""
    only = ["-k", mutant.only] if mutant.only else []
    words = ["-x", "-q", "--no-header", "-p", "no:cacheprovider", "-m", "not slow", *only, str(TESTS / mutant.tests)]
    assert forge.stdin is not None and forge.stdout is not None
    forge.stdin.write(json.dumps([str(folder), words, str(folder / "output.txt")]) + "\n")
    forge.stdin.flush()
    code = int(forge.stdout.readline())
    return code, (folder / "output.txt").read_text()


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.timeout(300)
@pytest.mark.parametrize("mutant", MUTANTS, ids=[m.name for m in MUTANTS])
def test_a_mutant_makes_its_tests_fail(mutant: Mutant, tmp_path: Path, forge: subprocess.Popen[str]) -> None:
    folder = copied(tmp_path)
    file = folder / "attnlib" / mutant.file
    text = file.read_text()
    assert text.count(mutant.old) == 1, f"{mutant.file} no longer says {mutant.old!r} once: write this mutant anew"
    file.write_text(text.replace(mutant.old, mutant.new))
    code, output = run(forge, folder, mutant)
    assert code == 1, f"survived: {output[-900:]}"
    assert "failed" in output and " error" not in output.splitlines()[-1]


def test_every_mutant_still_has_its_place() -> None:
    package = Path(attnlib.__file__).parent
    lost = [m.name for m in MUTANTS if (package / m.file).read_text().count(m.old) != 1]
    assert not lost
