"""The loop: batch, gradient, step; evaluations and checkpoints between steps, where the state is whole.

Which batch a step sees and what dropout draws are functions of (seed, step), so a run that goes on from a checkpoint
does bit for bit what one that never stopped does.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import threading
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from attnlib.errors import AttnlibError, CheckpointError
from attnlib.train.batch import Batch
from attnlib.train.checkpointing import State
from attnlib.train.distributed import Ranks
from attnlib.train.evaluate import Evaluator
from attnlib.train.events import Diverged, Interrupted
from attnlib.train.feed import Feed
from attnlib.train.nonfinite import culprit
from attnlib.train.optim import Optimizers
from attnlib.train.output import Output
from attnlib.train.schedule import Progress
from attnlib.train.signals import Stopped, Stops, name_of
from attnlib.train.spec import TrainSpec

Row = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """Where steps are computed: a device, in a dtype, beside other processes."""

    device: torch.device
    autocast: AbstractContextManager[None] = field(default_factory=nullcontext)
    ranks: Ranks = field(default_factory=Ranks)


class Trainer:
    """One run, from `state` to the end of its budget. `model` may be wrapped for several processes."""

    def __init__(
        self,
        model: nn.Module,
        optimizers: Optimizers,
        feed: Feed,
        *,
        spec: TrainSpec,
        state: State,
        place: Place,
        evaluator: Evaluator,
        output: Output,
    ) -> None:
        self.model, self.optimizers, self.feed, self.spec = model, optimizers, feed, spec
        self.objective, self.state, self.evaluator, self.output = feed.objective, state, evaluator, output
        self.device, self.autocast, self.ranks = place.device, place.autocast, place.ranks
        self.bare: nn.Module = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
        self.stops = Stops(self._save_at_once)
        self._whole = threading.Lock()  # held while parameters and state change, or are written
        self._row: Row = {}  # figures of the last step, until they are logged
        self._since = (state.elapsed, state.tokens)  # at the last row, for tokens a second

    # -- the run ----------------------------------------------------------------------------------------------------

    @property
    def progress(self) -> Progress:
        """How far the budget is spent."""
        return self._progress(self.state.step)

    def _progress(self, step: float) -> Progress:
        return Progress(self.state.step, self.spec.spent(step, self.state.elapsed))

    def run(self) -> None:
        """To the end of the budget, or until patience runs out. Interrupted after a checkpoint when a signal comes."""
        with self.stops:
            try:
                while self._goes_on():
                    self._between_steps()
                    self._row = self.step()
                    if self.state.step % self.spec.log_every == 0 or self.state.step == 1:
                        self._log_step()
                self._finish()
            except Stopped:
                self.optimizers.zero_grad()
                raise self._interrupted() from None

    def _goes_on(self) -> bool:
        """Whether there is another step; all processes answer alike."""
        stopped, elapsed = self.ranks.sum(self.stops.signal is not None, self.state.elapsed / self.ranks.size)
        self.state.elapsed = elapsed
        if stopped:
            raise Stopped
        if self.progress.fraction >= 1 or self.state.finished:
            return False
        every, state = self.spec.evaluate.every, self.state
        if every is not None and state.step % every == 0 and state.evaluated < state.step:
            self._evaluate(full=False)
        patience = self.spec.evaluate.patience
        return not self.ranks.sum(patience is not None and state.since_best >= patience)[0]

    def _between_steps(self) -> None:
        every, step = self.spec.checkpoint_every, self.state.step
        if every is not None and step and step % every == 0 and self.output.saved_step != step:
            with self._whole:
                self.output.save()

    def _finish(self) -> None:
        if self.state.finished:
            return
        self._log_step()
        if self.spec.evaluate.at_end:
            self._evaluate(full=True)
        with self._whole:
            self.state.finished = True
            self.output.save(must=True)
        self.output.settle()

    # -- one step ---------------------------------------------------------------------------------------------------

    def step(self) -> Row:
        """One optimizer step over the batch of this step; its figures."""
        begun, spec, parts = time.perf_counter(), self.spec, self.spec.accumulate
        self.optimizers.set_rate(spec.schedule.factor(self._progress(self.state.step + 0.5)))  # the middle of the step
        batches = [self.feed.batch(self.state.step * parts + part).to(self.device) for part in range(parts)]
        labels, tokens = self.ranks.sum(sum(b.labels.numel() for b in batches), sum(b.tokens for b in batches))
        self._seed()
        self.model.train()
        sums: dict[str, Tensor] = {}
        for part, batch in enumerate(batches):
            if self.ranks.size == 1:
                self.stops.check()
            with self.ranks.parting(self.model, last=part == parts - 1):
                for name, value in self._backward(batch, self.ranks.size / max(labels, 1)).items():
                    sums[name] = sums[name] + value if name in sums else value
        means = self.ranks.sum(*(float(value) / max(labels, 1) for value in sums.values()))
        figures: Row = dict(zip(sums, means))
        figures |= {"lr": self.optimizers.lr, "grad_norm": self._clip()}
        if not math.isfinite(figures["loss"] + figures["grad_norm"]):
            raise self._diverged(batches, figures)
        with self._whole:
            if self.ranks.size == 1:
                self.stops.check()
            self.optimizers.step()
            self.state.step += 1
            self.state.tokens += int(tokens)
            self.state.elapsed += time.perf_counter() - begun
        return {"step": self.state.step, **figures}

    def _backward(self, batch: Batch, scale: float) -> dict[str, Tensor]:
        """Adds the gradient of the batch's summed loss times `scale`; the sums, unscaled."""
        with self.autocast:
            loss = self.objective.loss(self.model, batch)
        (loss.sum * scale).backward()
        return {"loss": loss.sum.detach(), **{f"loss_{name}": value for name, value in loss.parts.items()}}

    def _clip(self) -> float:
        """The norm of the whole gradient, which is then scaled down to the bound where it is above."""
        grads = [p.grad for p in self.optimizers.parameters if p.grad is not None]
        norm = get_total_norm(grads)
        if self.spec.clip is not None and bool(norm.isfinite()):
            clip_grads_with_norm_(self.optimizers.parameters, self.spec.clip, norm)
        return float(norm)

    def _seed(self) -> None:
        key = f"{self.spec.seed} {self.state.step} {self.ranks.rank}".encode()
        torch.manual_seed(int.from_bytes(hashlib.blake2b(key, digest_size=8).digest()) >> 1)

    def _diverged(self, batches: list[Batch], figures: Row) -> Diverged:
        """Runs the batch again to find where; no collective may be waited for, so the bare model is run."""
        why = "not so when the batch is run again"
        self._seed()
        for batch in batches:
            self.optimizers.zero_grad()
            with self.autocast:
                why = culprit(self.bare, lambda batch=batch: self.objective.loss(self.bare, batch).sum)  # type: ignore[misc]
            if not why.startswith("not so"):
                break
        self.optimizers.zero_grad()
        what = "loss" if not math.isfinite(figures["loss"]) else "grad_norm"
        saved = self.output.saved
        kept = f"the last good checkpoint is {saved}" if saved else "no checkpoint was written before"
        return Diverged(f"step {self.state.step + 1}", f"{what} is {figures[what]}: {why}", kept,
                        "try a lower train.optimizer.lr, or runtime.dtype: float32")  # fmt: skip

    # -- between steps ----------------------------------------------------------------------------------------------

    def _evaluate(self, *, full: bool) -> None:
        state, scores = self.state, dict[str, float]()
        if self.ranks.writes and self.evaluator.splits:
            scores = self.evaluator.scores(self.bare, self.device, self.autocast, self.stops.check, full=full)
            self.output.row("eval", {"step": state.step, **scores})
        loss = scores.get("eval_loss", math.inf)
        better = loss < (math.inf if state.best is None else state.best)
        with self._whole:
            state.evaluated, state.scores, self.output.saved_step = state.step, scores, -1
            if better:
                state.best, state.since_best = loss, 0
            elif not full and scores:
                state.since_best += 1
        if better and self.spec.evaluate.patience is not None:
            self.output.save_best()

    def _save_at_once(self) -> None:
        """In a thread of its own, when a signal comes in a step: the state before that step, which still is whole."""
        with self._whole, contextlib.suppress(AttnlibError):  # the main thread tries again, and tells
            if self.state.step and self.output.saved_step != self.state.step:
                self.output.write()

    def _log_step(self) -> None:
        if not self._row:
            return
        elapsed, tokens = self.state.elapsed - self._since[0], self.state.tokens - self._since[1]
        speed = {"tokens_per_second": tokens / max(elapsed, 1e-9), "elapsed": self.state.elapsed}
        row, self._row, self._since = {**self._row, **speed}, {}, (self.state.elapsed, self.state.tokens)
        self.output.row("step", row)

    def _interrupted(self) -> Interrupted:
        """After the state of the last whole step was written; with several processes, by the first."""
        with self._whole:  # a checkpoint that the signal began is complete from here on
            signal, step, output = self.stops.signal or 15, self.state.step, self.output
        name, fact = name_of(signal), ""
        if step and output.saved_step != step:
            try:
                with self._whole:
                    output.save(must=True)
            except CheckpointError as error:
                kept = f"the newest checkpoint is {output.saved}" if output.saved else "there is none before"
                fact = f"{error.path}: {error.fact}, {kept}"
        return Interrupted(signal, name, step, output.saved, fact)
