"""One thread a test process, the same random numbers for each test, no compiled graph carried from one to the next."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
import torch

torch.set_num_threads(1)
os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}  # for the processes that tests start


@pytest.fixture(autouse=True)
def _same_beginning() -> Iterator[None]:
    torch.manual_seed(0)
    yield
    if "torch._dynamo.convert_frame" in sys.modules:
        torch._dynamo.reset()
