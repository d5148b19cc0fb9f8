"""A model with its tokenizer, ready for texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attnlib.errors import LayoutError, UsageError
from attnlib.generate.prompts import check_ids, device_of, vocab_of
from attnlib.generate.sources import reads
from attnlib.text.tokenizer import Framed, Tokenizer


@dataclass(frozen=True)
class Ready:
    """What every task is given: a model in evaluation mode, its tokenizer, and the folder they came from, if one."""

    model: Any
    tokenizer: Tokenizer
    folder: Path | None = None

    @property
    def device(self) -> torch.device:
        return device_of(self.model)

    @property
    def longest(self) -> int | None:
        """Most tokens of a text that is read, those around it counted; None = no bound."""
        reader = self.model.embedding if hasattr(self.model, "encode") else self.model
        return reader.max_length  # type: ignore[no-any-return]

    def head(self, wanted: type | tuple[type, ...], task: str, name: str) -> Any:
        """The spec of the model's head, or a UsageError where it is none of the `wanted`; `name` is how it is written."""
        spec = getattr(self.model, "spec", None)
        head = getattr(spec, "head", None)
        if spec is None or not isinstance(head, wanted):
            kind = "of no spec" if head is None else f"{head.kind}"
            raise UsageError("model.head", f"is {kind}", f"{task} needs head: {name}",
                             "fine-tune one: train: {init: {from: FOLDER, head: new}}")  # fmt: skip
        return head

    def fits(self, rows: Sequence[Framed], path: str) -> None:
        """LayoutError for a row that is empty, too long for the model, or of another vocabulary; UsageError for a model
        that reads no text."""
        reads(self.model)
        check_ids([row.ids for row in rows], vocab_of(self.model, source=True), path, filled=True)
        for number, row in enumerate(rows):
            if self.longest is not None and len(row.ids) > self.longest:
                place = path if len(rows) == 1 else f"{path}.{number}"
                raise LayoutError(place, f"has {len(row.ids)} tokens", f"the model's positions end at {self.longest}")


def finite(found: Tensor) -> Tensor:
    """What a model gave, or a UsageError where it is no numbers."""
    if not bool(found.isfinite().all()):
        raise UsageError("model", "gives what is no finite number", "must be finite",
                         "NaN among the weights, or a dtype too narrow?")  # fmt: skip
    return found


def load(
    folder: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype | None = torch.float32
) -> Ready:  # fmt: skip
    """The model and tokenizer of a checkpoint folder, ours or of a known family; see `attnlib.load`.

    `dtype`: of weights and activations, as the commands have it; None keeps the file's.
    """
    from attnlib.pretrained import load as load_model
    from attnlib.text import tokenizer_of

    return Ready(load_model(folder, device=device, dtype=dtype), tokenizer_of(folder), Path(folder))
