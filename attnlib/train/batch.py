"""What a model is trained on in one step, as tensors, and the loss it gives back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from attnlib.layout import Layout
from attnlib.text.tokenizer import Ids
from attnlib.train.corruption import IGNORE


@dataclass(frozen=True)
class Batch:
    """Ids with their layout, and labels for the positions that have one.

    ids:         [B, T] int64: what the encoder, or a stack alone, reads.
    labels:      [N] int64: one for each true position of `at`, row by row; for a classifier one a row.
    at:          [B, T] bool over the columns that give logits (the decoder's, where there is one); None = all.
    decoder_ids: [B, S] int64 and their layout: what the decoder of an encoder-decoder reads.
    """

    ids: Tensor
    layout: Layout
    labels: Tensor
    at: Tensor | None = None
    decoder_ids: Tensor | None = None
    decoder_layout: Layout | None = None

    @property
    def tokens(self) -> int:
        """Real tokens that the model reads."""
        layouts = [layout for layout in (self.layout, self.decoder_layout) if layout is not None]
        return sum(sum(layout.lengths or ()) for layout in layouts)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""

        def moved(t: Tensor | None) -> Tensor | None:
            return None if t is None else t.to(device, non_blocking=True)

        return replace(
            self,
            ids=self.ids.to(device, non_blocking=True),
            layout=self.layout.to(device),
            labels=self.labels.to(device, non_blocking=True),
            at=moved(self.at),
            decoder_ids=moved(self.decoder_ids),
            decoder_layout=None if self.decoder_layout is None else self.decoder_layout.to(device),
        )


@dataclass(frozen=True)
class Loss:
    """A sum over `count` labels, to be divided once, after accumulation; `parts` are sums too, for the log."""

    sum: Tensor
    count: int
    parts: Mapping[str, Tensor] = field(default_factory=dict)

    def plus(self, aux: Mapping[str, Tensor]) -> Loss:
        """With a model's own loss terms (a mean each, e.g. the balance of experts) added in their proportion."""
        if not aux:
            return self
        terms = {name: value.float() * self.count for name, value in aux.items()}
        parts = {"nll": self.sum.detach(), **{name: term.detach() for name, term in terms.items()}}
        return Loss(self.sum + sum(terms.values()), self.count, parts)

    @property
    def mean(self) -> Tensor:
        return self.sum / max(self.count, 1)


def laid_out(rows: Sequence[Sequence[Ids]], fill: int) -> tuple[Ids, Layout]:
    """Rows of one or several segments as [B, T] ids, filled up on the right, and the layout that says so."""
    ids = _filled(rows, fill)
    lengths = [[len(part) for part in row] for row in rows]
    if all(len(parts) == 1 for parts in lengths):
        return ids, Layout.from_lengths([parts[0] for parts in lengths], ids.shape[1])
    return ids, Layout.packed(lengths, ids.shape[1])


def labelled(inputs: Sequence[Sequence[Ids]], targets: Sequence[Sequence[Ids]], fill: int) -> Batch:
    """A batch of rows of segments with a target for each token; IGNORE = no loss there."""
    ids, layout = laid_out(inputs, fill)
    labels, at = _labels(_filled(targets, IGNORE))
    return Batch(torch.from_numpy(ids), layout, labels, at)


def paired(sources: Sequence[Ids], inputs: Sequence[Ids], targets: Sequence[Ids], fill: int) -> Batch:
    """A batch for an encoder-decoder: sources, and what the decoder reads and is to say."""
    ids, layout = laid_out([[s] for s in sources], fill)
    decoder_ids, decoder_layout = laid_out([[i] for i in inputs], fill)
    labels, at = _labels(_filled([[t] for t in targets], IGNORE))
    return Batch(torch.from_numpy(ids), layout, labels, at, torch.from_numpy(decoder_ids), decoder_layout)


def _filled(rows: Sequence[Sequence[Ids]], fill: int) -> Ids:
    width = max((sum(map(len, row)) for row in rows), default=0)
    ids = np.full((len(rows), width), fill, dtype=np.int64)
    for line, row in zip(ids, rows):
        at = 0
        for part in row:
            line[at : at + len(part)] = part
            at += len(part)
    return ids


def _labels(targets: Ids) -> tuple[Tensor, Tensor | None]:
    at = targets != IGNORE
    return torch.from_numpy(targets[at]), None if at.all() else torch.from_numpy(at)
