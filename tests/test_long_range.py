"""The planted long-range tasks: their answers are right, and one command trains and tells."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPTS = Path(__file__).parents[1] / "scripts"
sys.path.insert(0, str(SCRIPTS))

import long_range  # noqa: E402
from longrange.models import BOTH_WAYS, KINDS, build  # noqa: E402
from longrange.record import line, read, table  # noqa: E402
from longrange.tasks import NOT_ASKED, TASKS  # noqa: E402
from longrange.training import Result, Run, trained  # noqa: E402

from attnlib.errors import SpecError  # noqa: E402


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
    assert ids[-65] == ids[-1] == 0 and ids.count(0) == 2 and asked == {99: ids[-64]}
    ids, asked, _ = drawn("selective_copy", 20)
    assert [t for t in ids[:20] if t] == [*asked.values()] and [*asked] == [*range(20, 28)] == [20 + i for i in range(8)]
    ids, asked, _ = drawn("induction", 12)
    assert asked == {11: ids[ids.index(0) + 1]} and ids.count(0) == 2
    ids, asked, _ = drawn("sorting", 9)
    assert [*asked.values()] == sorted(ids)
    ids, asked, source = drawn("copying", 9)
    assert [*asked.values()] == source and ids[1:] == source[:-1]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_an_answer_in_every_stack_or_is_refused(kind: str) -> None:
    for name in ("induction", "sorting", "copying"):
        task = TASKS[name]
        if task.stack == "decoder" and KINDS[kind].get("kind") in BOTH_WAYS:
            with pytest.raises(SpecError, match="wish everything"):
                build(kind, task, 16)
            continue
        batch = task.draw(torch.Generator().manual_seed(0), 2, 8)
        model = build(kind, task, 16)
        out = model(batch.ids) if batch.source is None else model(batch.source, batch.ids)
        assert out.logits.shape == (2, 8, task.vocab) and torch.isfinite(out.logits).all()


def test_a_window_cannot_see_a_needle_beyond_its_layers() -> None:
    task = TASKS["needle"]
    model = build("window 16", task, 16).eval()
    with torch.no_grad():  # what writes to the stream begins at zero
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    batch = task.draw(torch.Generator().manual_seed(0), 1, 24)
    for place, seen in ((-33, True), (-34, False)):  # two layers of 16
        other = batch.ids.clone()
        other[0, place] = 2 + (other[0, place] - 1) % 16
        assert torch.equal(model(batch.ids).logits[0, -1], model(other).logits[0, -1]) is not seen


def test_a_run_repeats_and_ends_early_where_all_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run("sorting", "softmax", 0, 40, 16)
    first, second = trained(run), trained(run)
    assert first.accuracy == second.accuracy and first.taken == 40
    monkeypatch.setattr("longrange.training.ENOUGH", 0.0)
    assert trained(run).taken == 31  # one, and the thirty in which the rate falls


def test_the_table_tells_mean_spread_and_refusals() -> None:
    runs = [Run("mqar", kind, seed, 5, 16) for kind in ("softmax", "linformer 8") for seed in (0, 1)]
    results = [Result(run, {8: 0.9 + run.seed / 10}) if run.kind == "softmax" else trained(run) for run in runs]
    rows = table(results, [("mqar", 8), ("needle", 8)]).splitlines()
    assert rows == ["| kind | mqar 8 | needle 8 |", "|---|---|---|", "| softmax | 95 (10) |  |", "| linformer 8 | – |  |"]
    assert "of kind causal for linformer" in results[2].refused


def test_a_line_that_was_cut_is_left_out_of_the_file(tmp_path: Path) -> None:
    result, file = Result(Run("mqar", "gru", 1, 5, 16), {8: 0.5, 16: 0.25}, 5, 0.1), tmp_path / "figures.jsonl"
    file.write_text(line(result) + line(result)[:20])
    assert read(file) == [result] and file.read_text() == line(result)


@pytest.mark.multiprocess
def test_one_command_prints_a_table_and_goes_on_after_a_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.jsonl"
    told = ["induction", "--kinds", "linear;delta, conv", "--steps", "2", "--width", "16", "--json", str(file)]
    command = [sys.executable, str(SCRIPTS / "long_range.py"), *told, "--jobs", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "| kind | induction 24 | induction 64 |" in done.stdout and "| delta, conv |" in done.stdout
    kept = read(file)
    assert {(r.run.kind, r.run.seed, r.taken) for r in kept} == {
        (k, s, 2) for k in ("linear", "delta, conv") for s in (0, 1)
    }
    file.write_text("".join(map(line, kept[:3])) + line(kept[3])[:30])
    threads = torch.get_num_threads()
    try:
        assert long_range.main([*told, "--jobs", "1", "--resume"]) == 0
    finally:
        torch.set_num_threads(threads)
    again = capsys.readouterr()
    assert "1 runs of at most 2 steps" in again.err and again.out == done.stdout and len(read(file)) == 4


def test_unknown_names_and_files_that_would_be_lost_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert long_range.main(["recall"]) == 2 and "'recall' is unknown" in capsys.readouterr().err
    (tmp_path / "old").write_text("")
    assert long_range.main(["--json", str(tmp_path / "old")]) == 2 and "exists, wish --resume" in capsys.readouterr().err
