"""`train`: a config and a folder in, a trained model and its checkpoints out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attnlib.errors import CheckpointError, DataError, SpecError, UsageError
from attnlib.pretrained import read_spec
from attnlib.runtime import RuntimeSpec
from attnlib.spec import read, write
from attnlib.text import Tokenizer, TokenizerSpec, tokenizer_of
from attnlib.train.checkpointing import Checkpoints, State
from attnlib.train.config import Config
from attnlib.train.data import Splits
from attnlib.train.distributed import Ranks, local_rank, ranks
from attnlib.train.evaluate import Evaluator
from attnlib.train.events import Reporter
from attnlib.train.feed import Feed
from attnlib.train.finetune import freeze, source_of, start_from
from attnlib.train.loop import Place, Trainer
from attnlib.train.objectives import Objective
from attnlib.train.output import Output
from attnlib.train.spec import TrainSpec

_UNCHANGED = ("objective", "optimizer", "seed", "batch_size", "length", "freeze")  # what a run cannot go on without


@dataclass(frozen=True)
class TrainResult:
    """A finished run: the model (in evaluation mode), how it scored, and where it lies.

    checkpoint: the last; best: of the best evaluation, where `evaluate.patience` asked for one.
    """

    model: Any
    tokenizer: Tokenizer
    objective: Objective
    step: int
    elapsed: float
    scores: dict[str, float]
    checkpoint: Path
    best: Path | None


def train(
    config: Config,
    *,
    folder: str | Path,
    base: str | Path | None = None,
    report: Reporter | None = None,
    resume: bool = False,
) -> TrainResult:
    """Train the model of a config in `folder`, which gets metrics.jsonl, loss.png and step-XXXXXXXX checkpoints.

    base: where relative paths of the config start. resume: go on from the newest checkpoint, if there is one; the
    result is bit for bit that of a run that was not stopped. Raises Interrupted after SIGTERM or Ctrl-C, Diverged for
    a loss that is not finite, and CheckpointError, SpecError, DataError or UsageError for what cannot be.
    """
    folder, base = Path(folder), None if base is None else Path(base)
    config.runtime.set_threads()
    device = config.runtime.find_device(local_rank())
    with ranks(device) as group, _own_randomness(device), _alone(folder, group):
        return _train(config, folder, base, report or (lambda event: None), resume, device, group)


def _train(
    config: Config, folder: Path, base: Path | None, report: Reporter, resume: bool, device: torch.device, group: Ranks
) -> TrainResult:
    spec, checkpoints = config.train, Checkpoints(folder, config.train.keep)
    found = _starting_point(checkpoints, resume)
    splits = config.data.load(spec.objective.columns, base)
    objective = spec.objective.fitted(splits.train, config.model)
    spec = spec.replace(objective=objective)
    config = config.replace(model=objective.naming(config.model), train=spec)
    source = None if spec.init is None or found is not None else source_of(spec.init, base)
    tokenizer = _tokenizer(config, found, source, splits, base)
    _fit(config, objective, tokenizer)
    if spec.evaluate.every is not None and not splits.held_out:
        raise DataError("data.held_out", "leaves nothing to evaluate on", "train.evaluate.every needs rows held out")
    tree = {"data": write(config.data), "train": write(spec), "runtime": write(config.runtime)}

    torch.manual_seed(spec.seed)
    model: Any = config.model.build()
    if spec.init is not None and source is not None:
        start_from(model, source, spec.init)
    freeze(model, spec.freeze)
    model.to(device)
    _prepare(model, config.runtime, spec)
    optimizers = spec.optimizer.build(model)
    state = State()
    if found is not None:
        _unchanged(found, config, tree)
        state = checkpoints.load(found, model, optimizers)
    output = Output(
        checkpoints,
        state,
        spec,
        model=model,
        optimizers=optimizers,
        tokenizer=tokenizer,
        config=tree,
        writes=group.writes,
        report=report,
    )
    trainer = Trainer(
        group.wrap(model, device),
        optimizers,
        _feed(spec, tokenizer, splits, group),
        spec=spec,
        state=state,
        place=Place(device, config.runtime.autocast(device), group),
        evaluator=Evaluator(objective, tokenizer, splits, spec),
        output=output,
    )
    state.finished = state.finished and trainer.progress.fraction >= 1
    output.tell("start", _opening(model, tokenizer, splits, device, found), {"folder": str(folder)})
    try:
        trainer.run()
    finally:
        output.close()
    output.tell("end", f"done after {state.step:,} steps and {state.elapsed:,.0f} s", state.scores)
    last = output.saved or checkpoints.path(state.step)
    return TrainResult(model.eval(), tokenizer, objective, state.step, state.elapsed, state.scores, last, output.best)


def _starting_point(checkpoints: Checkpoints, resume: bool) -> Path | None:
    found = checkpoints.newest()
    if found is not None and not resume:
        raise UsageError(str(checkpoints.folder), f"holds checkpoints of a run, the newest {found.name}",
                         "must be a new folder", "resume it, or name another folder")  # fmt: skip
    if found is not None:
        checkpoints.check(found)
    return found


def _tokenizer(config: Config, found: Path | None, source: Path | None, splits: Splits, base: Path | None) -> Tokenizer:
    """That of the checkpoint, or a new one, whose vocabulary may be made from the training rows.

    Weights of another checkpoint know the ids of that one's vocabulary: none is made beside them.
    """
    if found is not None:
        return read(TokenizerSpec, _tree(found)["tokenizer"], path="tokenizer").build(found)
    if source is not None and (config.tokenizer.learns() or "tokenizer" not in config.model_fields_set):
        return tokenizer_of(source)
    texts = (text for row in splits.train for text in row.values.values())
    return config.tokenizer.build(base, texts)


def _fit(config: Config, objective: Objective, tokenizer: Tokenizer) -> None:
    """Everything that can be told before weights are made."""
    refusal = objective.refuses(config.model, tokenizer)
    if refusal is not None:
        raise SpecError("train.objective", refusal)
    if config.runtime.dtype == "float16":
        raise SpecError("runtime.dtype", "is float16", "training needs bfloat16 or float32")


def _prepare(model: nn.Module, runtime: RuntimeSpec, spec: TrainSpec) -> None:
    longest = getattr(model, "max_length", None)
    if longest is not None and spec.length > longest:
        raise SpecError("train.length", f"is {spec.length}", f"the model's positions end at {longest}")
    for module in model.modules():
        if hasattr(module, "checkpointing"):
            module.checkpointing = spec.checkpointing  # type: ignore[assignment]
    runtime.prepare(model)


def _feed(spec: TrainSpec, tokenizer: Tokenizer, splits: Splits, group: Ranks) -> Feed:
    """Parts of steps: `accumulate` of them on each process make one batch."""
    parts = spec.accumulate * group.size
    if spec.batch_size % parts:
        raise SpecError("train.batch_size", f"is {spec.batch_size}",
                        f"must be divisible by {spec.accumulate} parts on {group.size} processes")  # fmt: skip
    return Feed(
        spec.objective,
        tokenizer,
        splits.train,
        length=spec.length,
        batch_size=spec.batch_size // parts,
        seed=spec.seed,
        rank=group.rank,
        world_size=group.size,
    )


def _tree(folder: Path) -> dict[str, Any]:
    from attnlib.config import load_tree

    return load_tree(folder / "config.yaml")[0]


def _unchanged(found: Path, config: Config, tree: dict[str, Any]) -> None:
    """A run goes on with the model, the data and the objective that it began with."""
    saved = _tree(found)
    if config.train.objective.naming(read_spec(found)) != config.model:
        raise CheckpointError(str(found), "has another model than the config", "must be the same to resume",
                              "train it anew in another folder")  # fmt: skip
    ours, theirs = tree["train"], saved.get("train", {})
    for name, a, b in [("data", tree["data"], saved.get("data"))] + [
        (f"train.{key}", ours.get(key), theirs.get(key)) for key in _UNCHANGED
    ]:
        if a != b:
            raise CheckpointError(str(found), f"{name} was {b}", f"is {a} now and must be the same to resume",
                                  "train it anew in another folder")  # fmt: skip


def _opening(model: nn.Module, tokenizer: Tokenizer, splits: Splits, device: torch.device, found: Path | None) -> str:
    count = sum(p.numel() for p in model.parameters())
    begins = f"goes on from {found.name}" if found is not None else "begins"
    return (
        f"{begins}: {count:,} parameters on {device.type}, {tokenizer.vocab_size} ids, "
        f"{len(splits.train)} rows, {len(splits.held_out)} held out"
    )


@contextlib.contextmanager
def _own_randomness(device: torch.device) -> Iterator[None]:
    """A run seeds torch; what the caller's numbers would have been stays."""
    devices = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        yield


@contextlib.contextmanager
def _alone(folder: Path, group: Ranks) -> Iterator[None]:
    """Make the folder and keep other runs out of it while this one lasts."""
    if not group.writes:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / ".lock").open("w")
    except OSError as error:
        raise UsageError(str(folder), f"cannot be used: {error.strerror}", "wish a folder to write in") from error
    with handle:
        try:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:  # Windows
            pass
        except BlockingIOError:
            raise UsageError(str(folder), "is being trained in by another process", "one run a folder") from None
        yield
