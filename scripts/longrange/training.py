"""Train one model on one task, and see how often it is right."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnlib.train.optim import AdamW, Muon
from longrange.models import build
from longrange.tasks import NOT_ASKED, Batch, Task

ROWS, HELD = 64, 256
ENOUGH = 0.9995  # share right of the last batches at which more training shows nothing


@dataclass(frozen=True)
class Result:
    """accuracy: share of right answers on held-out texts, by length; steps taken."""

    task: str
    kind: str
    seed: int
    accuracy: dict[int, float]
    steps: int
    seconds: float


def trained(task: Task, kind: str, seed: int, *, steps: int, width: int = 64) -> Result:
    """Trained on every length in turns, by Muon, whose rate falls to zero over the second half; less where all is right."""
    torch.manual_seed(seed)
    model = build(kind, task, width)
    optimizer = Muon(lr=0.02, others=AdamW(lr=0.01, weight_decay=0.0)).build(model)
    made = torch.Generator().manual_seed(1000 + seed)
    begun, taken, lately = time.perf_counter(), 0, [0.0] * len(task.lengths) * 6
    while taken < steps and min(lately) < ENOUGH:
        batch = task.draw(made, ROWS, task.lengths[taken % len(task.lengths)])
        optimizer.set_rate(min(1.0, (taken + 1) / 20) * min(1.0, 2 * (1 - taken / steps)))
        logits, wanted = _asked(model, batch)
        F.cross_entropy(logits, wanted).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        lately[taken % len(lately)] = float((logits.argmax(-1) == wanted).float().mean())
        taken += 1
    spent = time.perf_counter() - begun
    model.eval()
    with torch.no_grad():
        held = torch.Generator().manual_seed(1)
        found = {n: _right(model, task.draw(held, HELD, n)) for n in task.lengths}
    return Result(task.name, kind, seed, found, taken, spent)


def _asked(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits and answers of the places that are asked."""
    out = model(batch.ids) if batch.source is None else model(batch.source, batch.ids)
    asked = batch.targets != NOT_ASKED
    return out.logits[asked], batch.targets[asked]


def _right(model: nn.Module, batch: Batch) -> float:
    logits, wanted = _asked(model, batch)
    return float((logits.argmax(-1) == wanted).float().mean())
