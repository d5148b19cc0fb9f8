"""Checkpoints of a run: folders step-XXXXXXXX that hold the model and all that training needs to go on."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from attnlib.errors import CheckpointError
from attnlib.pretrained import restore, save, verify
from attnlib.pretrained.files import read_json, write_json
from attnlib.pretrained.manifest import MANIFEST, Content
from attnlib.pretrained.source import InMemory
from attnlib.pretrained.tensors import SafeTensors, write_tensors
from attnlib.text.tokenizer import Tokenizer
from attnlib.train.optim import Optimizers

STATE, OPTIMIZER = "trainer.json", "optimizer.safetensors"
_NAME = re.compile(r"step-(\d{8,})")


@dataclass
class State:
    """What a run knows beside weights and optimizer. Data and dropout follow from the seed and the step.

    elapsed: seconds spent in steps. best: the lowest loss of an evaluation, since_best: evaluations after it.
    evaluated: the last step at which rows were scored, scores: what came out. finished: the budget is spent and scored.
    """

    step: int = 0
    elapsed: float = 0.0
    tokens: int = 0
    best: float | None = None
    since_best: int = 0
    evaluated: int = 0
    scores: dict[str, float] = field(default_factory=dict)
    finished: bool = False


class Checkpoints:
    """The checkpoints in the folder of a run, oldest first; the newest `keep` of them stay."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder, self.keep = folder, keep

    def all(self) -> list[Path]:
        """Complete ones, by step."""
        return [path for path in self._folders() if (path / MANIFEST).is_file()]

    def newest(self) -> Path | None:
        """The one with the most steps."""
        return next(reversed(self.all()), None)

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step stands."""
        return self.folder / f"step-{step:08d}"

    def save(
        self, model: nn.Module, optimizers: Optimizers, state: State, tokenizer: Tokenizer, config: Mapping[str, Any]
    ) -> Path:
        """Write one in one step, then let the oldest go."""
        for name, parameter in model.named_parameters():
            if not bool(parameter.isfinite().all()):
                raise CheckpointError(f"step {state.step}", f"parameter {name} is not finite", "was not written")
        target, tensors = self.path(state.step), optimizers.tensors()
        extra: dict[str, Content] = {
            STATE: write_json({"format": 1, **dataclasses.asdict(state)}),
            OPTIMIZER: partial(_write, tensors),
        }
        save(model, target, tokenizer=tokenizer, config=config, extra_files=extra)
        self.tidy()
        return target

    def load(self, folder: Path, model: nn.Module, optimizers: Optimizers) -> State:
        """Take everything back from a checkpoint whose every byte is as it was written."""
        self.check(folder)
        state = _state(folder)
        source = SafeTensors(folder, [OPTIMIZER])
        restore(model, folder, verify=False)
        optimizers.load({name: source.read(name) for name in source.facts}, str(folder / OPTIMIZER))
        return state

    def check(self, folder: Path) -> None:
        """Compare every byte with the manifest; a fault names the checkpoint before it, where there is one."""
        try:
            verify(folder)
        except CheckpointError as error:
            others = [path for path in self.all() if path != folder]
            hint = f"remove {folder} to go on from {others[-1].name}" if others else error.hint
            raise CheckpointError(error.path, error.fact, error.wish, hint) from error

    def tidy(self) -> None:
        """Remove what is older than the newest `keep`, and what killed writers left. One process writes a run."""
        kept = self.all()[-self.keep :]
        for path in self._folders():
            if kept and path not in kept and path < kept[0]:
                with contextlib.suppress(OSError):
                    (path / MANIFEST).unlink(missing_ok=True)  # no longer one that could be gone on from
                shutil.rmtree(path, ignore_errors=True)
        for path in self.folder.glob("step-*.tmp-????????"):
            shutil.rmtree(path, ignore_errors=True)

    def _folders(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        found = [(int(name[1]), path) for path in self.folder.iterdir() if (name := _NAME.fullmatch(path.name))]
        return [path for _, path in sorted(found) if path.is_dir()]


def _write(tensors: Mapping[str, Tensor], path: Path) -> None:
    write_tensors(path, InMemory(tensors).facts, tensors.items())


def _state(folder: Path) -> State:
    tree = read_json(folder, STATE)
    tree.pop("format", None)
    try:
        return State(**tree)
    except TypeError as error:
        raise CheckpointError(str(folder / STATE), f"is no state of a trainer: {error}", "wish one") from error
