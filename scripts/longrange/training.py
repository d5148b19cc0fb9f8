"""Train one model on one task, and see how often it is right."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnlib.errors import AttnlibError
from attnlib.train.optim import AdamW, Muon
from longrange.models import build
from longrange.tasks import NOT_ASKED, TASKS, Batch

ROWS, HELD = 16, 256
ENOUGH = 0.9995  # share right of the last batches at which more training shows nothing
ENDING = 30  # steps in which the rate falls to zero once that is reached


@dataclass(frozen=True)
class Run:
    """One model to train: for so many steps at the most, of so many channels."""

    task: str
    kind: str
    seed: int
    steps: int
    width: int


@dataclass(frozen=True)
class Result:
    """accuracy: share of right answers on held-out texts, by length; taken: steps; refused: why the task cannot have it."""

    run: Run
    accuracy: dict[int, float]
    taken: int = 0
    seconds: float = 0.0
    refused: str = ""


def alone() -> None:
    """Make this process one of several: one thread, and the first among them hears of Ctrl-C."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def trained(run: Run) -> Result:
    """Trained on every length in turns, by Muon, whose rate falls to zero over the second half; less where all is right.

    The rest of the machine has no say in it: a run is the same whatever else runs. `seconds` are of the processor.
    """
    task = TASKS[run.task]
    torch.manual_seed(run.seed)
    try:
        model = build(run.kind, task, run.width)
    except AttnlibError as error:
        return Result(run, {}, refused=str(error))
    optimizer = Muon(lr=0.02, others=AdamW(lr=0.01, weight_decay=0.0)).build(model)
    made = torch.Generator().manual_seed(1000 + run.seed)
    begun, taken, end, lately = time.process_time(), 0, run.steps, [0.0] * len(task.lengths) * 6
    while taken < end:
        batch = task.draw(made, ROWS, task.lengths[taken % len(task.lengths)])
        optimizer.set_rate(min(1.0, (taken + 1) / 20, 2 * (1 - taken / run.steps), (end - taken) / ENDING))
        logits, wanted = _asked(model, batch)
        F.cross_entropy(logits, wanted).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        lately[taken % len(lately)] = float((logits.argmax(-1) == wanted).float().mean())
        taken += 1
        if min(lately) >= ENOUGH:
            end = min(end, taken + ENDING)
    spent = time.process_time() - begun
    model.eval()
    with torch.no_grad():
        held = torch.Generator().manual_seed(1)
        found = {n: _right(model, task.draw(held, HELD, n)) for n in task.lengths}
    return Result(run, found, taken, spent)


def _asked(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits and answers of the places that are asked."""
    out = model(batch.ids) if batch.source is None else model(batch.source, batch.ids)
    asked = batch.targets != NOT_ASKED
    return out.logits[asked], batch.targets[asked]


def _right(model: nn.Module, batch: Batch) -> float:
    logits, wanted = _asked(model, batch)
    return float((logits.argmax(-1) == wanted).float().mean())
