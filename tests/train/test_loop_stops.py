"""What ends a run from outside: signals, kill -9 in mid-checkpoint, a full disk. Nothing that was learnt is lost."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import GPT, MUON, config, figures, rows, run, same, with_dropout

from attnlib.errors import CheckpointError
from attnlib.pretrained import manifest
from attnlib.train import Event, Interrupted, train
from attnlib.train.checkpointing import Checkpoints

CHOICES: dict[str, Any] = {"steps": 8, "model": with_dropout(GPT), "optimizer": MUON, "log_every": 1, "accumulate": 2}


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("when", ["step", "eval"])
def test_a_signal_writes_a_checkpoint_that_goes_on_bit_for_bit(
    tmp_path: Path, number: signal.Signals, code: int, when: str
) -> None:
    choices = {**CHOICES, "evaluate": {"every": 2, "at_end": False}}
    whole = run(tmp_path / "whole", **choices)
    before = signal.getsignal(number)

    def stop(event: Event) -> None:
        if event.what == when and event.step == 4:
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted, match=r"train: stopped by .* after step \d, checkpoint in .*step-0000000") as caught:
        train(config(tmp_path / "cut", **choices), folder=tmp_path / "cut", report=stop)
    assert caught.value.exit_code == code and caught.value.folder == Checkpoints(tmp_path / "cut").newest()
    assert signal.getsignal(number) is before
    cut = run(tmp_path / "cut", resume=True, **choices)
    assert same(whole.model, cut.model)
    assert figures(tmp_path / "whole") == figures(tmp_path / "cut")


def test_a_signal_within_a_step_leaves_the_state_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from attnlib.train.objectives import CausalLM

    whole, loss, calls = run(tmp_path / "whole", **CHOICES), CausalLM.loss, []

    def interrupted(self: CausalLM, model: Any, batch: Any) -> Any:
        calls.append(1)
        if len(calls) == 7:  # the first part of step 4
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(self, model, batch)

    monkeypatch.setattr(CausalLM, "loss", interrupted)
    with pytest.raises(Interrupted, match="after step 3"):
        run(tmp_path / "cut", **CHOICES)
    assert len(calls) == 7
    assert same(whole.model, run(tmp_path / "cut", resume=True, **CHOICES).model)


def test_a_signal_in_a_long_step_writes_the_state_before_it_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from attnlib.train.objectives import CausalLM

    loss, calls, waited = CausalLM.loss, [], []

    def long(self: CausalLM, model: Any, batch: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
            begun = time.monotonic()
            while Checkpoints(tmp_path / "cut").newest() is None and time.monotonic() < begun + 30:
                time.sleep(0.01)
            waited.append(time.monotonic() - begun)
        return loss(self, model, batch)

    choices = {**CHOICES, "accumulate": 1}
    with monkeypatch.context() as patched:
        patched.setattr(CausalLM, "loss", long)
        with pytest.raises(Interrupted, match="after step 3"):
            run(tmp_path / "cut", **choices)
    assert waited[0] < 5
    assert same(run(tmp_path / "whole", **choices).model, run(tmp_path / "cut", resume=True, **choices).model)


def test_a_full_disk_on_the_way_is_told_and_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choices = {**CHOICES, "checkpoint_every": 2}
    whole, put, events = run(tmp_path / "whole", **choices), manifest.put, list[Event]()
    full = []

    def refused(path: Path, content: Any) -> None:
        if "step-00000004" in str(path) and path.name == "optimizer.safetensors":
            path.write_bytes(b"half")
            full.append(path)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        put(path, content)

    monkeypatch.setattr(manifest, "put", refused)
    cut = run(tmp_path / "cut", events=events, **choices)
    assert full and same(whole.model, cut.model)
    [note] = [event.text for event in events if event.what == "note"]
    assert "No space left on device" in note and "\n" not in note
    assert sorted(p.name for p in (tmp_path / "cut").iterdir()) == [
        ".lock", "metrics.jsonl", "step-00000006", "step-00000008"
    ]  # fmt: skip


def test_a_full_disk_at_the_end_keeps_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choices, put = {**CHOICES, "checkpoint_every": 5}, manifest.put

    def refused(path: Path, content: Any) -> None:
        if "step-00000008" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        put(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(manifest, "put", refused)
        with pytest.raises(CheckpointError, match=r"No space left on device, what was there before is untouched"):
            run(tmp_path / "cut", **choices)
    assert same(run(tmp_path / "cut", resume=True, **choices).model, run(tmp_path / "whole", **choices).model)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_rows_that_a_full_disk_refuses_are_written_later(tmp_path: Path) -> None:
    from attnlib.train.metrics_log import MetricsLog

    log = MetricsLog(Path("/dev/full"))
    assert "No space left on device" in (log.append({"step": 1}) or "")
    log.path = tmp_path / "metrics.jsonl"
    assert log.append({"step": 2, "eval_perplexity": float("inf")}) is None
    assert log.rows() == [{"step": 1}, {"step": 2, "eval_perplexity": None}]
    log.path.write_bytes(log.path.read_bytes() + b'{"step": 3, "lo')
    log.truncate(1)
    assert log.path.read_bytes() == b'{"step": 1}\n'


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from runs import run
from test_loop_stops import CHOICES
from attnlib.pretrained import manifest

def dying(name, after):
    real, calls = getattr(manifest, name), []
    def die(*args):
        if "step-00000004" in str(args[0]):
            calls.append(1)
            if len(calls) > after:
                if name == "put":
                    Path(args[0]).write_bytes(b"half of it")
                os.kill(os.getpid(), signal.SIGKILL)
        return real(*args)
    setattr(manifest, name, die)

for point in sys.argv[2:]:
    if os.fork() == 0:
        name, after = point.split(":")
        dying(name, int(after))
        run(Path(sys.argv[1]) / point, checkpoint_every=4, **CHOICES)
        os._exit(1)
    assert os.wait()[1] == signal.SIGKILL, point
"""


def child(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """A Python process that finds these tests."""
    places = [str(Path(__file__).parent), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1", **options.pop("env", {})}
    return subprocess.Popen([sys.executable, *arguments], env=env, text=True, **options)


@pytest.mark.multiprocess
@pytest.mark.timeout(300)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_kill_9_in_mid_checkpoint_loses_nothing(tmp_path: Path) -> None:
    points = ["put:0", "put:2", "put:4", "_swap:0", "sync:0"]
    done = child("-c", KILLED, str(tmp_path / "runs"), *points)
    assert done.wait(240) == 0
    whole = run(tmp_path / "whole", checkpoint_every=4, **CHOICES)
    for point in points:
        folder = tmp_path / "runs" / point
        found = [path.name for path in Checkpoints(folder).all()]
        assert found in ([], ["step-00000004"]), point
        assert same(run(folder, resume=True, checkpoint_every=4, **CHOICES).model, whole.model), point
        assert [row["loss"] for row in rows(folder)] == [row["loss"] for row in rows(tmp_path / "whole")], point
        assert not list(folder.glob("*.tmp-*")), point


SLOW = """
import sys
from pathlib import Path
from runs import run
from attnlib.train import Event, Interrupted, train
from runs import config
try:
    train(config(Path(sys.argv[1]), steps=10**6, log_every=1), folder=sys.argv[1],
          report=lambda event: print(event.what, event.step, flush=True))
except Interrupted as stop:
    print(stop)
    sys.exit(stop.exit_code)
"""


@pytest.mark.multiprocess
@pytest.mark.timeout(120)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_process_ends_within_5_seconds_of_a_signal(tmp_path: Path, number: int, code: int) -> None:
    running = child("-c", SLOW, str(tmp_path / "run"), stdout=subprocess.PIPE)
    assert running.stdout is not None
    while not running.stdout.readline().startswith("step 3"):
        assert running.poll() is None
    sent = time.monotonic()
    running.send_signal(number)
    said = running.communicate(timeout=60)[0].splitlines()
    assert running.returncode == code and time.monotonic() - sent < 5
    assert said[-1].startswith("train: stopped by ") and Checkpoints(tmp_path / "run").newest() is not None


TWO = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from runs import run
from test_loop_stops import TOGETHER
result = run(Path(sys.argv[1]), **TOGETHER)
torch.save(result.model.state_dict(), sys.argv[1] + f".{__import__('os').environ['RANK']}.pt")
"""
TOGETHER: dict[str, Any] = {"steps": 4, "batch_size": 8, "accumulate": 2, "checkpoint_every": 2, "evaluate": {"every": 2}}


@pytest.mark.multiprocess
@pytest.mark.timeout(240)
def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    config(tmp_path / "run")  # writes the text
    script = tmp_path / "two.py"
    script.write_text(TWO)
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script), str(tmp_path / "run")]
    running = child(*start, stderr=subprocess.PIPE)
    said = running.communicate(timeout=200)[1]
    assert running.returncode == 0, said
    one = run(tmp_path / "one", **TOGETHER).model.state_dict()
    first, second = (torch.load(tmp_path / f"run.{rank}.pt") for rank in (0, 1))
    for name, tensor in one.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], tensor, rtol=1e-3, atol=1e-5)
    assert [row["step"] for row in rows(tmp_path / "run")] == [row["step"] for row in rows(tmp_path / "one")]
    shutil.rmtree(tmp_path / "run" / "step-00000004")
    run(tmp_path / "run", resume=True, **TOGETHER)  # another number of processes may go on
