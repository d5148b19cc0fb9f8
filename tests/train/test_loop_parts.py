"""Around the loop: schedules, parameter groups, progress lines, the curve, TensorBoard, where nan comes from."""

from __future__ import annotations

import io
import math
import sys
from pathlib import Path

import pytest
import torch
from runs import ADAMW, GPT, MUON, rows, run, same
from torch import nn

from attnlib.errors import CheckpointError, SpecError, UsageError
from attnlib.models.spec import ModelSpec
from attnlib.pretrained import load
from attnlib.runtime import RuntimeSpec
from attnlib.spec import read
from attnlib.train import Event, TrainSpec
from attnlib.train.nonfinite import culprit
from attnlib.train.optim import AdamW, Muon, Optimizer, block_matrices
from attnlib.train.progress import progress
from attnlib.train.schedule import Constant, ConstantLinear, Cosine, Linear, Progress, Schedule

HEADS = {"num_heads": 2}
T5 = {
    "kind": "encoder_decoder",
    "d_model": 16,
    "vocab_size": 293,
    "decoder_start": 256,
    "encoder": {
        "num_layers": 1,
        "bias": "t5_relative",
        "block": {"attention": HEADS, "mlp": {"kind": "dense", "d_ff": 32}},
    },
    "decoder": {"num_layers": 1, "block": {"attention": HEADS, "cross": HEADS, "mlp": {"kind": "gated", "d_ff": 32}}},
}


def at(fraction: float, steps: int = 100) -> Progress:
    return Progress(round(fraction * steps), fraction)


@pytest.mark.parametrize("kind", sorted(Schedule.kinds()))
@pytest.mark.parametrize("warmup", [0, 10, 0.1])
def test_a_schedule_rises_to_one_and_never_rises_again(kind: str, warmup: float) -> None:
    schedule = read(Schedule, {"kind": kind, "warmup": warmup, "floor": 0.1})
    found = [schedule.factor(at(i / 100)) for i in range(101)]
    top = found.index(max(found))
    assert found[:top] == sorted(found[:top]) and found[top:] == sorted(found[top:], reverse=True)
    assert max(found) > 0.9 and top <= 10
    assert found[-1] == pytest.approx(1.0 if kind == "constant" else 0.1)


def test_schedules_have_the_values_of_their_formulas() -> None:
    assert Cosine(warmup=0.2).factor(at(0.6)) == pytest.approx(0.5)
    assert Cosine(warmup=0, floor=0.5).factor(at(0.25)) == pytest.approx(0.5 + 0.25 * (1 + math.cos(math.pi / 4)))
    assert Linear(warmup=0.5).factor(at(0.75)) == pytest.approx(0.5)
    assert ConstantLinear(warmup=0, decay=0.4).factor(at(0.6)) == 1.0
    assert ConstantLinear(warmup=0, decay=0.4).factor(at(0.9)) == pytest.approx(0.25)
    assert Constant(warmup=4).factor(Progress(0, 0.0)) == 0.25


def test_a_budget_is_steps_or_seconds() -> None:
    for tree in ({}, {"steps": 3, "seconds": 2.0}):
        with pytest.raises(SpecError, match=r"steps.* given, wish one of them"):
            read(TrainSpec, tree)
    with pytest.raises(SpecError, match=r"accumulate: 3 parts, wish a divisor of batch_size 4"):
        read(TrainSpec, {"steps": 1, "batch_size": 4, "accumulate": 3})


@pytest.mark.parametrize("tree", [GPT, T5], ids=["decoder", "encoder_decoder"])
@pytest.mark.parametrize("spec", [AdamW(), Muon()], ids=["adamw", "muon"])
def test_groups_hold_every_parameter_once_and_decay_matrices_only(tree: dict[str, object], spec: Optimizer) -> None:
    model = read(ModelSpec, tree).build()
    optimizers = spec.build(model)
    assert {id(p) for p in optimizers.parameters} == {id(p) for p in model.parameters()}
    assert len(optimizers.parameters) == len(list(model.parameters()))
    for part in optimizers.parts:
        for group in part.param_groups:
            assert all(p.dim() >= 2 for p in group["params"]) or group["weight_decay"] == 0


def test_muon_gets_the_linear_maps_of_the_blocks_and_nothing_else() -> None:
    names = block_matrices(read(ModelSpec, T5).build())
    assert all(".blocks.0." in name for name in names)
    roles = sorted(name.split("body.")[1] for name in names)
    attention = ["k.weight", "out.weight", "q.weight", "v.weight"]
    assert roles == sorted([*attention * 3, "up.weight", "down.weight", "gate.weight", "up.weight", "down.weight"])


def test_state_of_a_parameter_that_is_not_trained_is_refused() -> None:
    model = read(ModelSpec, GPT).build()
    optimizers = Muon().build(model)
    sum(p.square().sum() for p in model.parameters()).backward()
    optimizers.step()
    tensors = optimizers.tensors()
    with pytest.raises(CheckpointError, match="the model trains no such parameter"):
        AdamW().build(nn.Linear(2, 2)).load(tensors)
    tensors["embedding.token.weight/exp_avg"] = torch.zeros(3, 3)
    with pytest.raises(CheckpointError, match=r"embedding.token.weight: exp_avg has shape \(3, 3\)"):
        Muon().build(model).load(tensors)


class Part(nn.Module):
    def __init__(self, bad: str) -> None:
        super().__init__()
        self.first, self.second, self.bad = nn.Linear(3, 3), nn.Linear(3, 3), bad

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x * (math.inf if self.bad == "output" else 1.0))
        y = torch.sqrt(y - y) if self.bad == "gradient" else y
        return self.second(y)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("output", "the output of parts.1.first is not finite"),
        ("gradient", "the gradient of parts.1.first"),
        ("parameter", "parameter parts.1.second.bias is not finite"),
        ("loss", "the loss is not finite, and every output of the model is"),
        ("none", "not so when the batch is run again"),
    ],
)
def test_the_first_thing_that_is_not_finite_is_named(bad: str, said: str) -> None:
    torch.manual_seed(0)
    model = nn.Module()
    model.parts = nn.ModuleList([Part(""), Part(bad)])
    if bad == "parameter":
        model.parts[1].second.bias.data[1] = math.nan

    def loss() -> torch.Tensor:
        y = model.parts[1](model.parts[0](torch.ones(2, 3)))
        return y.square().sum() * (math.inf if bad == "loss" else 1.0)

    assert culprit(model, loss).startswith(said)
    assert not any(module._forward_hooks for module in model.modules())


def test_progress_is_a_line_an_event_without_a_terminal() -> None:
    stream = io.StringIO()
    with progress(stream) as report:
        report(Event("step", 3, 0.25, "loss 2.5"))
        report(Event("end", 12, 1.0, "done"))
    assert stream.getvalue().splitlines() == [" 25%  loss 2.5", "100%  done"]


def test_progress_is_a_bar_on_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    with progress(stream) as report:
        report(Event("step", 3, 0.25, "loss 2.5"))
        report(Event("eval", 3, 0.25, "eval_loss [2.4]"))
    assert "eval_loss [2.4]" in stream.getvalue() and "25%" in stream.getvalue()


def test_a_run_draws_its_curve_or_says_why_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    run(tmp_path / "run", steps=3, log_every=1, plot=True)
    assert (tmp_path / "run" / "loss.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    events: list[Event] = []
    run(tmp_path / "bare", steps=1, plot=True, events=events)
    [note] = [event.text for event in events if event.what == "note"]
    assert note.startswith("loss.png was skipped: figure: matplotlib is not")


def test_tensorboard_gets_the_rows_or_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    run(tmp_path / "run", steps=2, tensorboard=True)
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UsageError, match=r"tensorboard is not installed.*attnlib\[tensorboard\]"):
        run(tmp_path / "bare", steps=1, tensorboard=True, optimizer=MUON)


def test_a_checkpoint_of_a_run_loads_as_a_model(tmp_path: Path) -> None:
    result = run(tmp_path / "run", steps=2)
    assert same(load(result.checkpoint, verify=True), result.model) and not result.model.training


def test_the_runtime_chooses_backend_and_device_or_says_what_is_missing(tmp_path: Path) -> None:
    model = read(ModelSpec, GPT).build()
    RuntimeSpec(attention="reference").prepare(model)
    assert model.stack.backend == "reference"
    assert RuntimeSpec(device="cpu").find_device() == torch.device("cpu")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match=r"runtime\.device: is cuda, and torch finds none"):
            RuntimeSpec(device="cuda").find_device()
    with pytest.raises(SpecError, match=r"runtime\.dtype: is float16"):
        run(tmp_path / "run", steps=1, runtime={"dtype": "float16"})


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("optimizer", [ADAMW, MUON], ids=["adamw", "muon"])
def test_training_on_cuda_learns_and_resumes(tmp_path: Path, optimizer: dict[str, object]) -> None:
    choices = {"runtime": {"device": "cuda", "dtype": "bfloat16"}, "optimizer": optimizer, "log_every": 1}
    run(tmp_path / "run", steps=4, **choices)
    result = run(tmp_path / "run", steps=20, resume=True, **choices)
    losses = [row["loss"] for row in rows(tmp_path / "run")]
    assert result.step == 20 and losses[-1] < losses[0]
