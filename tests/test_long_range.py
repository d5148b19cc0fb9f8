"""The planted long-range tasks: their answers are right, and one command trains and tells."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPTS = Path(__file__).parents[1] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from longrange.models import KINDS, build  # noqa: E402
from longrange.tasks import NOT_ASKED, TASKS  # noqa: E402


def drawn(name: str, n: int) -> tuple[list[int], dict[int, int], list[int] | None]:
    """ids of one text, the answers by place, the source."""
    batch = TASKS[name].draw(torch.Generator().manual_seed(3), 1, n)
    asked = {i: t for i, t in enumerate(batch.targets[0].tolist()) if t != NOT_ASKED}
    return batch.ids[0].tolist(), asked, None if batch.source is None else batch.source[0].tolist()


def test_the_answers_are_right() -> None:
    ids, asked, _ = drawn("mqar", 5)
    pairs = dict(zip(ids[0:10:2], ids[1:10:2]))
    assert len(pairs) == 5 and asked == {i: pairs[ids[i]] for i in range(10, 15)}
    ids, asked, _ = drawn("needle", 64)
    assert ids[-65] == ids[-1] == 0 and ids.count(0) == 2 and asked == {259: ids[-64]}
    ids, asked, _ = drawn("selective_copy", 20)
    assert [t for t in ids[:20] if t] == [*asked.values()] and [*asked] == [*range(20, 28)] == [20 + i for i in range(8)]
    ids, asked, _ = drawn("induction", 12)
    assert asked == {11: ids[ids.index(0) + 1]} and ids.count(0) == 2
    ids, asked, _ = drawn("sorting", 9)
    assert [*asked.values()] == sorted(ids)
    ids, asked, source = drawn("copying", 9)
    assert [*asked.values()] == source and ids[1:] == source[:-1]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_an_answer_in_every_stack(kind: str) -> None:
    for name in ("induction", "sorting", "copying"):
        task = TASKS[name]
        batch = task.draw(torch.Generator().manual_seed(0), 2, 8)
        model = build(kind, task, 16)
        out = model(batch.ids) if batch.source is None else model(batch.source, batch.ids)
        assert out.logits.shape == (2, 8, task.vocab) and torch.isfinite(out.logits).all()


@pytest.mark.multiprocess
def test_one_command_prints_a_table_and_writes_its_figures(tmp_path: Path) -> None:
    told = ["induction", "--kinds", "linear;delta, conv", "--seeds", "2", "--steps", "2", "--width", "16", "--threads", "1"]
    command = [sys.executable, str(SCRIPTS / "long_range.py"), *told, "--json", str(tmp_path / "figures.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "| kind | induction 32 | induction 128 |" in done.stdout and "| delta, conv |" in done.stdout
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [(f["kind"], f["seed"], f["steps"]) for f in figures] == [
        (k, s, 2) for k in ("linear", "delta, conv") for s in (0, 1)
    ]
    done = subprocess.run([*command[:2], "recall"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "'recall' is unknown" in done.stderr
