"""One thread a test process, and no compiled graph carried from one test to the next."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_beginning() -> Iterator[None]:
    torch.manual_seed(0)
    yield
    dynamo = torch._dynamo if hasattr(torch, "_dynamo") else None
    if dynamo is not None and "torch._dynamo.convert_frame" in __import__("sys").modules:
        dynamo.reset()
