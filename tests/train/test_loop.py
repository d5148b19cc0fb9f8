"""The loop: it learns, and neither accumulation, recomputation nor the way a run is cut into pieces changes what."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import ADAMW, GPT, MUON, config, figures, rows, run, same, with_dropout

from attnlib.errors import CheckpointError, SpecError, UsageError
from attnlib.train import Diverged, Event, checkpoint_of
from attnlib.train.checkpointing import Checkpoints


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("optimizer", [ADAMW, MUON], ids=["adamw", "muon"])
def test_the_loss_falls(tmp_path: Path, optimizer: dict[str, Any]) -> None:
    events: list[Event] = []
    run(tmp_path / "run", events=events, steps=25, optimizer=optimizer, log_every=1, evaluate={})
    losses = [row["loss"] for row in rows(tmp_path / "run") if "loss" in row]
    assert len(losses) == 25 and losses[-1] < 0.6 * losses[0]
    assert [event.what for event in events][-3:] == ["eval", "checkpoint", "end"]


KINDS: dict[str, dict[str, Any]] = {
    "adamw": {},
    "muon": {"optimizer": MUON},
    "dropout": {"model": with_dropout(GPT)},
    "accumulate": {"model": with_dropout(GPT), "accumulate": 2},
    "bf16": {"runtime": {"dtype": "bfloat16"}, "optimizer": MUON},
    "frozen": {"freeze": ["embedding.*"]},
}


@pytest.mark.parametrize("name", KINDS)
def test_a_resumed_run_equals_one_that_was_not_stopped(tmp_path: Path, name: str) -> None:
    choices = {"steps": 6, "checkpoint_every": 3, "keep": 9, "log_every": 1, **KINDS[name]}
    whole = run(tmp_path / "whole", **choices)
    run(tmp_path / "cut", **choices)
    shutil.rmtree(tmp_path / "cut" / "step-00000006")
    events: list[Event] = []
    cut = run(tmp_path / "cut", resume=True, events=events, **choices)
    assert "goes on from step-00000003" in str(events[0])
    assert same(whole.model, cut.model)
    assert figures(tmp_path / "whole") == figures(tmp_path / "cut")
    a, b = ((tmp_path / d / "step-00000006" / "optimizer.safetensors").read_bytes() for d in ("whole", "cut"))
    assert a == b


def test_accumulation_changes_nothing_but_rounding(tmp_path: Path) -> None:
    one = run(tmp_path / "one", accumulate=1)
    four = run(tmp_path / "four", accumulate=4)
    for a, b in zip(one.model.parameters(), four.model.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_recomputing_activations_changes_nothing(tmp_path: Path) -> None:
    kept = run(tmp_path / "kept", model=with_dropout(GPT))
    again = run(tmp_path / "again", model=with_dropout(GPT), checkpointing=True)
    assert again.model.stack.checkpointing and same(kept.model, again.model)


def test_a_run_leaves_the_callers_randomness_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run(tmp_path / "run", steps=1)
    assert torch.equal(torch.rand(3), expected)


def test_a_budget_in_seconds_ends_the_run_and_the_rate(tmp_path: Path) -> None:
    result = run(tmp_path / "run", seconds=0.3, schedule={"kind": "linear", "warmup": 0}, log_every=1)
    found = [row["lr"] for row in rows(tmp_path / "run")]
    assert result.elapsed >= 0.3 and found == sorted(found, reverse=True) and found[-1] < 0.01
    again = run(tmp_path / "run", resume=True, seconds=0.3, schedule={"kind": "linear", "warmup": 0}, log_every=1)
    assert again.step == result.step and again.elapsed == result.elapsed


def test_a_run_goes_on_when_its_budget_grows(tmp_path: Path) -> None:
    run(tmp_path / "run", steps=3, evaluate={})
    result = run(tmp_path / "run", resume=True, steps=5, evaluate={})
    assert result.step == 5 and [row["step"] for row in rows(tmp_path / "run") if "eval_loss" in row] == [3, 5]


def test_a_new_run_refuses_a_folder_with_checkpoints(tmp_path: Path) -> None:
    run(tmp_path / "run", steps=1)
    with pytest.raises(UsageError, match="holds checkpoints of a run, the newest step-00000001"):
        run(tmp_path / "run", steps=1)


def test_resuming_with_another_model_or_seed_is_refused(tmp_path: Path) -> None:
    run(tmp_path / "run", steps=1)
    with pytest.raises(CheckpointError, match="another model"):
        run(tmp_path / "run", steps=2, resume=True, model=with_dropout(GPT))
    with pytest.raises(CheckpointError, match=r"train\.seed was None, is 4 now"):
        run(tmp_path / "run", steps=2, resume=True, seed=4)


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "trainer.json", "config.yaml"])
def test_a_flipped_byte_is_found_on_resume(tmp_path: Path, file: str) -> None:
    run(tmp_path / "run", steps=2, checkpoint_every=1)
    path = tmp_path / "run" / "step-00000002" / file
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"changed bytes.*to go on from step-00000001"):
        run(tmp_path / "run", steps=3, resume=True)


def test_as_many_checkpoints_are_kept_as_asked(tmp_path: Path) -> None:
    result = run(tmp_path / "run", steps=7, checkpoint_every=2, keep=2)
    assert [path.name for path in Checkpoints(tmp_path / "run").all()] == ["step-00000006", "step-00000007"]
    assert checkpoint_of(tmp_path / "run") == result.checkpoint and checkpoint_of(result.checkpoint) == result.checkpoint


def test_patience_ends_a_run_and_keeps_the_best(tmp_path: Path) -> None:
    ask = {"every": 1, "patience": 2, "at_end": False}
    result = run(tmp_path / "run", steps=40, optimizer={"kind": "adamw", "lr": 1.0}, clip=None, evaluate=ask)
    losses = [row["eval_loss"] for row in rows(tmp_path / "run") if "eval_loss" in row]
    assert result.step < 40 and min(losses) == losses[-3]
    assert result.best == tmp_path / "run" / "best" and checkpoint_of(tmp_path / "run") == result.best
    again = run(tmp_path / "run", resume=True, steps=40, optimizer={"kind": "adamw", "lr": 1.0}, clip=None, evaluate=ask)
    assert again.step == result.step


def test_divergence_names_step_module_and_checkpoint(tmp_path: Path) -> None:
    choices = {"optimizer": {"kind": "adamw", "lr": 1e30}, "clip": None, "schedule": {"kind": "constant", "warmup": 0}}
    with pytest.raises(Diverged, match=r"step [2-5]: .*(output of|gradient of) .*no checkpoint was written") as caught:
        run(tmp_path / "run", **choices)
    assert "\n" not in str(caught.value)


def test_parameters_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    huge = {"optimizer": {"kind": "adamw", "lr": 3e38, "weight_decay": 100.0}, "clip": None}
    with pytest.raises((CheckpointError, Diverged), match=r"is not finite"):
        run(tmp_path / "run", steps=1, schedule={"kind": "constant", "warmup": 0}, **huge)
    assert Checkpoints(tmp_path / "run").all() == []


def test_freezing_keeps_what_matches_and_refuses_what_matches_nothing(tmp_path: Path) -> None:
    before = config(tmp_path / "run").model
    torch.manual_seed(0)
    fresh = before.build().state_dict()
    frozen = run(tmp_path / "run", freeze=["stack.blocks.0.*"]).model.state_dict()
    kept = {name for name in fresh if torch.equal(fresh[name], frozen[name])}
    assert kept == {name for name in fresh if name.startswith("stack.blocks.0.")}
    with pytest.raises(SpecError, match="matches no parameter"):
        run(tmp_path / "other", freeze=["stak.*"])


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    def meddle(event: Event) -> None:
        if event.what == "step":
            with pytest.raises(UsageError, match="another process"):
                run(tmp_path / "run", resume=True)

    from attnlib.train import train

    train(config(tmp_path / "run", steps=1), folder=tmp_path / "run", report=meddle)
