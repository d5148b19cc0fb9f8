"""What a run writes into its folder and tells: metrics, checkpoints, the curve of the loss, events."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from attnlib.errors import AttnlibError, CheckpointError
from attnlib.pretrained import save
from attnlib.text.tokenizer import Tokenizer
from attnlib.train.checkpointing import Checkpoints, State
from attnlib.train.events import Event, Reporter, What, told
from attnlib.train.metrics_log import Board, MetricsLog
from attnlib.train.optim import Optimizers
from attnlib.train.spec import TrainSpec

METRICS, PLOT, BEST, BOARD = "metrics.jsonl", "loss.png", "best", "tensorboard"


def checkpoint_of(folder: str | Path) -> Path:
    """The model folder to use of a run: `folder` itself if it is one, else its best or newest checkpoint."""
    folder = Path(folder)
    if (folder / "config.yaml").exists() or (folder / "config.json").exists():
        return folder
    best = folder / BEST
    found = best if best.is_dir() else Checkpoints(folder).newest()
    if found is None:
        raise CheckpointError(str(folder), "holds no checkpoint", "wish a model's folder or the folder of a run")
    return found


class Output:
    """The folder of a run. With several processes only one `writes`; the others do nothing here.

    config: the tree, beside the model and the tokenizer, that a checkpoint's config.yaml gets.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        state: State,
        spec: TrainSpec,
        *,
        model: nn.Module,
        optimizers: Optimizers,
        tokenizer: Tokenizer,
        config: Mapping[str, Any],
        writes: bool,
        report: Reporter,
    ) -> None:
        self.checkpoints, self.folder, self.state, self.spec = checkpoints, checkpoints.folder, state, spec
        self.model, self.optimizers, self.tokenizer, self.config = model, optimizers, tokenizer, config
        self.writes, self._report = writes, report
        self.saved = checkpoints.newest()  # the newest checkpoint
        self.saved_step = state.step if self.saved is not None else -1  # where one was written, or tried
        self.log, self.board = MetricsLog(self.folder / METRICS), None
        if writes:
            checkpoints.tidy()
            self.log.truncate(state.step)
            self.board = Board(self.folder / BOARD, state.step) if spec.tensorboard else None

    def tell(self, what: What, text: str, values: Mapping[str, Any] | None = None) -> None:
        """An event to the callback."""
        if self.writes:
            spent = self.spec.spent(self.state.step, self.state.elapsed)
            self._report(Event(what, self.state.step, spent, text, values or {}))

    def row(self, what: What, row: Mapping[str, Any]) -> None:
        """Figures to metrics.jsonl, TensorBoard and the callback."""
        if not self.writes:
            return
        if (failed := self.log.append(row)) is not None:
            self.tell("note", f"{failed}; the rows are kept for later")
        if self.board is not None:
            self.board.append(row)
        self.tell(what, told({name: value for name, value in row.items() if name != "elapsed"}), row)

    def save(self, *, must: bool = False) -> None:
        """Write a checkpoint. A failure on the way is told and the run goes on; `must` raises it."""
        try:
            self.write()
        except CheckpointError as error:
            if must:
                raise
            self.saved_step = self.state.step  # not again at this step
            self.tell("note", f"{error}; training goes on")
        else:
            self.tell("checkpoint", f"checkpoint {self.saved}", {"folder": str(self.saved)})

    def write(self) -> None:
        """`save` without a word."""
        if self.writes:
            self.saved = self.checkpoints.save(self.model, self.optimizers, self.state, self.tokenizer, self.config)
        self.saved_step = self.state.step

    def save_best(self) -> None:
        """The model alone, beside the checkpoints. A failure is told and the run goes on."""
        if not self.writes:
            return
        try:
            save(self.model, self.folder / BEST, tokenizer=self.tokenizer, config=self.config)
        except CheckpointError as error:
            self.tell("note", f"{error}; training goes on")

    @property
    def best(self) -> Path | None:
        """The model with the best evaluation, where patience keeps one."""
        found = self.folder / BEST
        return found if self.spec.evaluate.patience is not None and found.is_dir() else None

    def settle(self) -> None:
        """Rows that could not be written before have to be now."""
        if self.writes and (failed := self.log.flush()) is not None:
            raise CheckpointError(*failed.split(" ", 1))

    def close(self) -> None:
        """The curve of the loss; without matplotlib, or without rows, the reason is told instead."""
        if self.board is not None:
            self.board.close()
        if not self.writes or not self.spec.plot:
            return
        try:
            from attnlib.inspect.plot import loss_figure

            loss_figure(self.log.rows(), self.folder / PLOT)
        except (AttnlibError, OSError) as error:
            self.tell("note", f"{PLOT} was skipped: {error}")
