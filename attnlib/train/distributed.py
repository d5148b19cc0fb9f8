"""Data-parallel training: what several processes have to agree on. One process alone is the same with size 1."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from attnlib.errors import UsageError


@dataclass(frozen=True)
class Ranks:
    """This process among `size`; number 0 writes."""

    rank: int = 0
    size: int = 1

    @property
    def writes(self) -> bool:
        return self.rank == 0

    def sum(self, *values: float) -> list[float]:
        """Each value summed over all processes; equal on all of them."""
        if self.size == 1:
            return list(values)
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        together = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(together)
        found: list[float] = together.tolist()
        return found

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        """The model as data-parallel training calls it: gradients are means over the processes."""
        if self.size == 1:
            return model
        return nn.parallel.DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)

    def parting(self, model: nn.Module, last: bool) -> AbstractContextManager[None]:
        """Around forward and backward of one part of a batch: gradients travel with the last."""
        if last or not isinstance(model, nn.parallel.DistributedDataParallel):
            return nullcontext()
        held: AbstractContextManager[None] = model.no_sync()
        return held


def local_rank() -> int:
    """Which of its machine's processes this one is."""
    return int(os.environ.get("LOCAL_RANK", "0"))


@contextmanager
def ranks(device: torch.device) -> Iterator[Ranks]:
    """The processes that torchrun started (WORLD_SIZE); those of a group that is there already; or this one alone."""
    if dist.is_available() and dist.is_initialized():
        yield Ranks(dist.get_rank(), dist.get_world_size())
        return
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Ranks()
        return
    if not dist.is_available():
        raise UsageError("WORLD_SIZE", f"is {size}", "this torch cannot train in several processes")
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank(), size)
    finally:
        dist.destroy_process_group()
