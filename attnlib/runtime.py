"""Where and how a model runs: device, dtype, kernels. No part of the model, so never under `model`."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from attnlib.errors import UsageError
from attnlib.spec import Spec

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class RuntimeSpec(Spec):
    """Section `runtime` of a config.

    device: auto = cuda where there is one. dtype: of activations (training keeps float32 weights and uses autocast).
    attention: the backend of every attention, auto = the first that does not refuse. threads: of the CPU, None = torch's.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    attention: str = "auto"
    compile: bool = False
    threads: Annotated[int, Field(ge=1)] | None = None

    def find_device(self, index: int = 0) -> torch.device:
        """The device; `index`: which one of several."""
        there = torch.cuda.is_available()
        if self.device == "cuda" and not there:
            raise UsageError("runtime.device", "is cuda, and torch finds none", "must be there", "device: auto, or cpu")
        return torch.device("cuda", index) if there and self.device != "cpu" else torch.device("cpu")

    def set_threads(self) -> None:
        """Set torch's threads, where a number is given."""
        if self.threads is not None:
            torch.set_num_threads(self.threads)

    def prepare(self, model: nn.Module) -> None:
        """Choose the backend of every stack and compile the forward, where that is asked for."""
        for module in model.modules():
            if hasattr(module, "backend"):
                module.backend = self.attention  # type: ignore[assignment]
        if self.compile:
            model.compile()

    def autocast(self, device: torch.device) -> AbstractContextManager[None]:
        """Matrix products in `dtype` over float32 weights; nothing where that is float32."""
        dtype = DTYPES[self.dtype]
        return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)
