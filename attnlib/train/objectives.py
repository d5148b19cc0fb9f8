"""What a model learns to do: the slot `objective`. Logits are computed where there is a label, and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from attnlib.errors import DataError, nearest
from attnlib.models.heads import LabelledSpec
from attnlib.spec import Spec
from attnlib.text.tokenizer import Ids, Tokenizer
from attnlib.train.batch import Batch, Loss, labelled, laid_out, paired
from attnlib.train.corruption import (
    corrupt_spans,
    mask_tokens,
    raw_length,
    span_counts,
    word_numbers,
)
from attnlib.train.data import Row
from attnlib.train.examples import Example, Examples, TooLong, fitting, running_text
from attnlib.train.fits import OVER_TOKENS, either, foresight, head_refusal, looks_back, vocabulary_refusal
from attnlib.train.metrics import label_scores, language_scores

M = TypeVar("M", bound=Spec)
Rngs = Sequence[np.random.Generator]
Share = Annotated[float, Field(gt=0, lt=1)]
Smoothing = Annotated[float, Field(ge=0, lt=1)]


class Objective(Spec, slot="objective"):
    """Rows of text to batches, and a model's loss on a batch."""

    columns: ClassVar[tuple[str, ...]] = ("text",)
    models: ClassVar[tuple[str, ...]] = ()
    heads: ClassVar[tuple[str, ...]] = ("lm",)
    random: ClassVar[bool] = False  # whether batches are corrupted

    @property
    def smoothing(self) -> float:
        return 0.0

    def refuses(self, model: Any, tokenizer: Tokenizer | None = None) -> str | None:
        """Why the model (its spec) or the tokenizer cannot learn this, or None."""
        if model.kind not in self.models:
            fits = [name for name, kind in Objective.kinds().items() if model.kind in kind.models]
            return f"{self.kind} trains {either(self.models)}, and the model is of kind {model.kind}: use {either(fits)}"
        refusal = head_refusal(model.head, self.heads)
        if refusal is None and tokenizer is not None:
            refusal = vocabulary_refusal(model, tokenizer)
        return refusal

    def fitted(self, rows: Sequence[Row], model: Any = None) -> Self:
        """This objective with what it takes from the training rows and the model's spec filled in."""
        return self

    def naming(self, model: M) -> M:
        """The model's spec with what this (fitted) objective knows of it filled in."""
        return model

    def examples(self, rows: Sequence[Row], tokenizer: Tokenizer, length: int, *, training: bool = True) -> Examples:
        """The rows in ids, no sequence longer than `length`."""
        raise NotImplementedError

    def batch(self, examples: Sequence[Example], tokenizer: Tokenizer, rngs: Rngs) -> Batch:
        """Examples as tensors; `rngs` has one generator an example where batches are `random`."""
        raise NotImplementedError

    def logits(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Any]:
        """Logits at the labelled positions, [N, V], and the model's whole output."""
        if batch.decoder_ids is None:
            out = model(batch.ids, batch.layout, at=batch.at)
        else:
            out = model(batch.ids, batch.decoder_ids, batch.layout, batch.decoder_layout, at=batch.at)
        return out.logits.flatten(0, -2), out

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Cross-entropy in fp32, summed over the labels."""
        logits, out = self.logits(model, batch)
        total = F.cross_entropy(logits.float(), batch.labels, reduction="sum", label_smoothing=self.smoothing)
        return Loss(total, batch.labels.numel()).plus(out.aux)

    def scores(self, nll: float, predicted: Tensor, labels: Tensor, examples: Examples) -> dict[str, float]:
        """What an evaluation reports, from the summed nll (nats) and the likeliest label at each position."""
        return language_scores(nll, predicted, labels)


class CausalLM(Objective, kind="causal_lm"):
    """Each token from those before it. Documents are packed; none is predicted from another."""

    models = ("decoder",)

    def refuses(self, model: Any, tokenizer: Tokenizer | None = None) -> str | None:
        return super().refuses(model, tokenizer) or foresight(model.stack, "stack")

    def examples(self, rows: Sequence[Row], tokenizer: Tokenizer, length: int, *, training: bool = True) -> Examples:
        end = () if tokenizer.eos_id is None else (tokenizer.eos_id,)
        around = (tokenizer.template[0], end)
        return running_text(rows, tokenizer, length + 1, training=training, overlap=1, document=around)

    def batch(self, examples: Sequence[Example], tokenizer: Tokenizer, rngs: Rngs) -> Batch:
        inputs = [[part[:-1] for part in row] for row in examples]
        return labelled(inputs, [[part[1:] for part in row] for row in examples], tokenizer.pad_id or 0)

    def scores(self, nll: float, predicted: Tensor, labels: Tensor, examples: Examples) -> dict[str, float]:
        return language_scores(nll, predicted, labels, examples.tokens / examples.characters)


class MaskedLM(Objective, kind="masked_lm"):
    """Hidden tokens from both sides (Devlin et al., 2018): `rate` chosen; 80% masked, 10% swapped, 10% kept."""

    models = ("encoder",)
    heads = OVER_TOKENS
    random = True
    rate: Share = 0.15
    whole_word: bool = False

    def examples(self, rows: Sequence[Row], tokenizer: Tokenizer, length: int, *, training: bool = True) -> Examples:
        tokenizer.need("mask")
        return running_text(rows, tokenizer, length, training=training, piece=tokenizer.template)

    def batch(self, examples: Sequence[Example], tokenizer: Tokenizer, rngs: Rngs) -> Batch:
        hidden = [[self._hide(part, tokenizer, rng) for part in row] for row, rng in zip(examples, rngs)]
        inputs, targets = ([[pair[side] for pair in row] for row in hidden] for side in (0, 1))
        return labelled(inputs, targets, tokenizer.pad_id or 0)

    def _hide(self, ids: Ids, tokenizer: Tokenizer, rng: np.random.Generator) -> tuple[Ids, Ids]:
        return mask_tokens(
            ids,
            rng,
            rate=self.rate,
            mask_id=tokenizer.need("mask"),
            choices=np.flatnonzero(tokenizer.ordinary),
            candidates=tokenizer.ordinary[ids],
            words=word_numbers(ids, tokenizer.edges) if self.whole_word else None,
        )

    def scores(self, nll: float, predicted: Tensor, labels: Tensor, examples: Examples) -> dict[str, float]:
        scores = language_scores(nll, predicted, labels)
        return {"masked_accuracy" if name == "accuracy" else name: value for name, value in scores.items()}


class ToDecoder(Objective):
    """Source to target: the decoder reads `start` and the target so far (teacher forcing), and ends with eos."""

    models = ("encoder_decoder",)
    start: Literal["pad", "bos", "eos"] = "pad"  # pad as in T5; the same id as model.decoder_start
    label_smoothing: Smoothing = 0.0

    @property
    def smoothing(self) -> float:
        return self.label_smoothing

    def refuses(self, model: Any, tokenizer: Tokenizer | None = None) -> str | None:
        refusal = super().refuses(model, tokenizer) or foresight(model.decoder, "decoder")
        if refusal is None and tokenizer is not None and model.decoder_start != tokenizer.need(self.start):
            first = tokenizer.need(self.start)
            refusal = (
                f"model.decoder_start is {model.decoder_start}, and {self.kind} starts with {self.start}: set it to {first}"
            )
        return refusal

    def _paired(self, pairs: Sequence[tuple[Ids, Ids]], tokenizer: Tokenizer) -> Batch:
        start, end = np.array([tokenizer.need(self.start)]), np.array([tokenizer.need("eos")])
        inputs = [np.concatenate([start, target]) for _, target in pairs]
        targets = [np.concatenate([target, end]) for _, target in pairs]
        sources = [np.concatenate([source, end]) for source, _ in pairs]
        return paired(sources, inputs, targets, tokenizer.pad_id or 0)


class SpanCorruption(ToDecoder, kind="span_corruption"):
    """Removed spans from what is left (Raffel et al., 2020): `density` of the tokens, in spans of `mean_span`."""

    random = True
    density: Share = 0.15
    mean_span: Annotated[float, Field(ge=1)] = 3.0

    def examples(self, rows: Sequence[Row], tokenizer: Tokenizer, length: int, *, training: bool = True) -> Examples:
        raw = raw_length(length, self.density, self.mean_span)
        _, spans = span_counts(raw, self.density, self.mean_span)
        if spans > len(tokenizer.sentinels):
            hint = f"raise objective.mean_span, or tokenizer: {{kind: bytes, sentinels: {spans}}}"
            raise DataError("tokenizer.sentinels", f"are {len(tokenizer.sentinels)}",
                            f"a source of {length} tokens needs {spans}", hint)  # fmt: skip
        return running_text(rows, tokenizer, raw, training=training, packed=False)

    def batch(self, examples: Sequence[Example], tokenizer: Tokenizer, rngs: Rngs) -> Batch:
        how = {"density": self.density, "mean_span": self.mean_span}
        pairs = [corrupt_spans(e[0], r, sentinels=tokenizer.sentinels, **how) for e, r in zip(examples, rngs)]
        return self._paired(pairs, tokenizer)


class Seq2Seq(ToDecoder, kind="seq2seq"):
    """The target of each source. What is longer than `length` is refused, cut or skipped."""

    columns = ("source", "target")
    too_long: TooLong = "refuse"

    def examples(self, rows: Sequence[Row], tokenizer: Tokenizer, length: int, *, training: bool = True) -> Examples:
        pairs: list[Example] = []
        for row in rows:
            source, target = (
                fitting(tokenizer.encode(row[side]), length - 1, self.too_long, row.origin, side) for side in self.columns
            )
            if source is not None and target is not None:
                pairs.append((source, target))
        return Examples(listed=_some(pairs))

    def batch(self, examples: Sequence[Example], tokenizer: Tokenizer, rngs: Rngs) -> Batch:
        return self._paired([(source, target) for source, target in examples], tokenizer)


class Classify(Objective, kind="classify"):
    """One of `labels` for a text; without labels, the head's, else those of the training rows in alphabetical order."""

    columns = ("text", "label")
    models = ("encoder", "decoder")
    heads = ("classify",)
    labels: tuple[str, ...] = ()
    too_long: TooLong = "refuse"
    label_smoothing: Smoothing = 0.0

    @property
    def smoothing(self) -> float:
        return self.label_smoothing

    def refuses(self, model: Any, tokenizer: Tokenizer | None = None) -> str | None:
        refusal, count = super().refuses(model, tokenizer), getattr(model.head, "num_labels", None)
        if refusal is None and self.labels and count not in (None, len(self.labels)):
            refusal = f"model.head.num_labels is {count}, and there are {len(self.labels)} labels: set it to that"
        named = getattr(model.head, "labels", ())
        if refusal is None and self.labels and named and named != self.labels:
            refusal = f"model.head.labels are {', '.join(named)}, and the objective's {', '.join(self.labels)}"
        if refusal is None and getattr(model.head, "problem", None) in ("multi_label", "regression"):
            refusal = f"model.head.problem is {model.head.problem}: classify trains single_label"
        if refusal is None and getattr(model.head, "pooling", None) == "first" and looks_back(getattr(model, "stack", None)):
            refusal = "model.head.pooling is first, whose token sees no other through causal masks: set it to last"
        return refusal

    def fitted(self, rows: Sequence[Row], model: Any = None) -> Self:
        named = getattr(getattr(model, "head", None), "labels", ())
        labels = self.labels or named or tuple(sorted({row["label"] for row in rows}))
        if len(labels) < 2:
            raise DataError("data.label", f"is {labels[0]!r} in every row" if labels else "has no rows",
                            "must have at least two values")  # fmt: skip
        return self.replace(labels=labels)

    def naming(self, model: M) -> M:
        head: Any = getattr(model, "head", None)
        named = isinstance(head, LabelledSpec) and not head.labels and head.num_labels == len(self.labels)
        return model.replace(head=head.replace(labels=self.labels)) if named else model

    def examples(self, rows: Sequence[Row], tokenizer: Tokenizer, length: int, *, training: bool = True) -> Examples:
        number = {label: i for i, label in enumerate(self.labels)}
        listed: list[Example] = []
        for row in rows:
            if row["label"] not in number:
                raise DataError(row.origin, f"label {row['label']!r} does not occur in training",
                                f"must be one of {', '.join(self.labels)}", nearest(row["label"], number))  # fmt: skip
            whole = tokenizer.encode(row["text"], bos=tokenizer.opens, template=True)
            ids = fitting(whole, length, self.too_long, row.origin, "text")
            if ids is not None:
                listed.append((ids, np.array([number[row["label"]]])))
        return Examples(listed=_some(listed))

    def batch(self, examples: Sequence[Example], tokenizer: Tokenizer, rngs: Rngs) -> Batch:
        ids, layout = laid_out([[ids] for ids, _ in examples], tokenizer.pad_id or 0)
        return Batch(torch.from_numpy(ids), layout, torch.from_numpy(np.concatenate([label for _, label in examples])))

    def scores(self, nll: float, predicted: Tensor, labels: Tensor, examples: Examples) -> dict[str, float]:
        return {
            "loss": nll / max(len(labels), 1),
            **label_scores(predicted.tolist(), labels.tolist(), len(self.labels)),
        }


def _some(listed: list[Example]) -> list[Example]:
    if not listed:
        raise DataError("data", "holds no example that fits", "must hold at least one", "raise train.length")
    return listed
