"""What is asked of a model: prompts as people have them, checked, and run through the model as ragged batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from attnlib.errors import LayoutError, UsageError
from attnlib.generate.options import Sampling
from attnlib.layout import Layout

Prompts = Sequence[Sequence[int]] | Sequence[str] | Sequence[Tensor] | Tensor


class Tokenizer(Protocol):
    """What generation needs of a tokenizer. Also read, if there: bos_id, eos_id, mask_id, template."""

    def encode(self, text: str, /) -> Sequence[int]: ...
    def decode(self, ids: Sequence[int], /) -> str: ...


@dataclass(frozen=True)
class Job:
    """A checked request: rows of the decoder, of the source (encoder-decoder only), and all that is not per row."""

    model: Any
    options: Sampling
    rows: list[list[int]]
    sources: list[list[int]] | None
    eos: frozenset[int]
    tokenizer: Tokenizer | None

    def asked(self, row: int) -> tuple[Sequence[int], ...]:
        """Everything the model was given for this row: what its random numbers are drawn by."""
        return (self.rows[row],) if self.sources is None else (self.sources[row], self.rows[row])


def prepare(
    model: Any,
    prompts: Prompts,
    options: Sampling,
    *,
    attention_mask: Tensor | None,
    layout: Layout | None,
    decoder_prompts: Prompts | None,
    start: int | None,
    tokenizer: Tokenizer | None,
) -> Job:
    """Checks everything before the model runs."""
    if is_kind(model, "encoder"):
        raise UsageError("model", "is an encoder", "generation needs a decoder or an encoder-decoder",
                         "score() gives pseudo-log-likelihoods of an encoder")  # fmt: skip
    need_head(model)
    vocab, start = vocab_of(model), start_of(model, tokenizer, start)
    eos = getattr(tokenizer, "eos_id", None)
    ends = frozenset(options.eos if options.eos is not None else () if eos is None else (eos,))
    check_ids([sorted(ends)], vocab, "generate.eos")
    if options.stop and tokenizer is None:
        raise UsageError("generate.stop", "is given without a tokenizer", "stop strings need one", "tokenizer=...")
    both = is_kind(model, "encoder_decoder")
    rows = as_rows(prompts, "prompts", attention_mask=attention_mask, layout=layout, tokenizer=tokenizer, end=both)
    sources = None
    if both:
        sources = check_ids(rows, vocab_of(model, source=True), "prompts", filled=True)
        rows = decoder_rows(decoder_prompts, len(sources), start, tokenizer)
    elif decoder_prompts is not None:
        raise UsageError("decoder_prompts", "given to a decoder", "are for encoder-decoders", "give prompts only")
    place = "prompts" if sources is None else "decoder_prompts"
    rows = check_ids([row or [start] if start is not None else row for row in rows], vocab, place, filled=True)
    for number, row in enumerate(rows):
        new = options.max_new_tokens
        if model.max_length is not None and len(row) + new > model.max_length:
            raise LayoutError(f"{place}.{number}", f"{len(row)} tokens and {new} new ones are {len(row) + new}",
                              f"the model's positions end at {model.max_length}", "lower max_new_tokens")  # fmt: skip
    return Job(model, options, rows, sources, ends, tokenizer)


def is_kind(model: Any, kind: str) -> bool:
    """By what a model can do, so that one built by hand, without a spec, is known too."""
    able = "encoder" if not hasattr(model, "begin") else "encoder_decoder" if hasattr(model, "encode") else "decoder"
    return able == kind


def vocab_of(model: Any, *, source: bool = False) -> int:
    """How many ids the decoder (or the encoder of a `source`) knows."""
    other = None if source else getattr(model, "decoder_embedding", None)
    if model.spec is None:
        return int((other or model.embedding).token.weight.shape[0])
    return int((None if source else getattr(model.spec, "decoder_vocab_size", None)) or model.spec.vocab_size)


def need_head(model: Any, logits: Tensor | None = None) -> None:
    """UsageError for a model that has no head, or one whose logits are not over the vocabulary."""
    if getattr(model, "head", model) is None or (logits is not None and logits.shape[-1] != vocab_of(model)):
        raise UsageError("model", "has no head over the vocabulary", "needs one to tell tokens",
                         "head: {kind: lm}, or masked_lm for an encoder")  # fmt: skip


def start_of(model: Any, tokenizer: Tokenizer | None, given: int | None) -> int | None:
    """What a decoder begins with: the id given, the one that the model's spec says, or the tokenizer's bos."""
    for start in (given, getattr(model.spec, "decoder_start", None), getattr(tokenizer, "bos_id", None)):
        if start is not None:
            check_ids([[start]], vocab_of(model), "start")
            return int(start)
    return None


def as_rows(
    given: Prompts,
    path: str,
    *,
    attention_mask: Tensor | None = None,
    layout: Layout | None = None,
    tokenizer: Tokenizer | None = None,
    end: bool = False,
) -> list[list[int]]:
    """The real tokens of each row, as lists: of id lists, of texts, or of a [B, T] tensor with a mask or layout.

    Texts get what the tokenizer's template puts before them, such as bos, and with `end` what it puts after.
    """
    if isinstance(given, Tensor) and given.dim() == 2 and not given.is_floating_point() and given.dtype != torch.bool:
        if layout is None and attention_mask is not None:
            layout = Layout.from_mask(attention_mask)
        if layout is None:
            return [[int(i) for i in row] for row in given.tolist()]
        return _real(given, layout, path)
    if attention_mask is not None or layout is not None:
        raise UsageError(path, "come with a mask or layout", "these belong to a [batch, tokens] tensor of ids")
    if isinstance(given, str | Tensor) or any(isinstance(row, int) for row in given):
        shape = f" of shape {tuple(given.shape)}, {given.dtype}" if isinstance(given, Tensor) else ""
        raise UsageError(path, f"is one {type(given).__name__}{shape}", "must be a list of prompts, or ids "
                         "[batch, tokens]", "put a single prompt into a list")  # fmt: skip
    rows: list[list[int]] = []
    for number, row in enumerate(given):
        if isinstance(row, str):
            if tokenizer is None:
                raise UsageError(f"{path}.{number}", "is text", "needs a tokenizer", "tokenizer=..., or give ids")
            before, after = getattr(tokenizer, "template", ((), ()))
            row = [*before, *tokenizer.encode(row), *(after if end else ())]
        rows.append([int(i) for i in row])
    return rows


def _real(ids: Tensor, layout: Layout, path: str) -> list[list[int]]:
    if layout.positions.shape != ids.shape:
        raise LayoutError(path, f"ids of shape {tuple(ids.shape)} with a layout of {tuple(layout.positions.shape)}",
                          "must have one shape")  # fmt: skip
    if layout.segments is None:
        return [[int(i) for i in row] for row in ids.tolist()]
    if bool((layout.segments > 0).any()):
        raise LayoutError(path, "rows hold several segments", "generation continues one sequence a row", "unpack them")
    real = layout.segments >= 0
    return [[int(i) for i in row[keep].tolist()] for row, keep in zip(ids, real)]


def decoder_rows(given: Prompts | None, count: int, start: int | None, tokenizer: Tokenizer | None) -> list[list[int]]:
    """The decoder's prompt of each source: the start id, and what was given after it."""
    rows = [[] for _ in range(count)] if given is None else as_rows(given, "decoder_prompts", tokenizer=tokenizer)
    if len(rows) != count:
        raise LayoutError("decoder_prompts", f"{len(rows)} for {count} prompts", "must be one each")
    if start is None:
        return rows
    return [row if row[:1] == [start] else [start, *row] for row in rows]


def check_ids(rows: list[list[int]], vocab: int, path: str, *, filled: bool = False) -> list[list[int]]:
    """The rows as they came; LayoutError for ids out of vocabulary and, where rows must be `filled`, for empty ones."""
    for number, row in enumerate(rows):
        if filled and not row:
            raise LayoutError(f"{path}.{number}", "is empty", "needs at least one token", "give start=ID to begin with")
        if row and (min(row) < 0 or max(row) >= vocab):
            place = next(i for i, token in enumerate(row) if not 0 <= token < vocab)
            raise LayoutError(f"{path}.{number}", f"token {place} is {row[place]}", f"ids must lie in 0..{vocab - 1}",
                              "is this the model's tokenizer?")  # fmt: skip
    return rows


def begin(job: Job) -> tuple[Any, Tensor]:
    """A state with every prompt in it and the logits of what follows, [B, V]; the source is encoded once."""
    width = max(len(row) for row in job.rows)
    state = begin_state(job.model, job.sources, len(job.rows), job.options.cache, width + job.options.max_new_tokens)
    state.horizon = tuple(len(row) + job.options.max_new_tokens for row in job.rows)  # a row scales as if alone
    logits = torch.empty(0)
    for ids, layout, _ in blocks(job.rows, "left", job.options.prefill_chunk or width, device_of(job.model)):
        logits = job.model.step(ids, layout, state, at=slice(-1, None))
        need_head(job.model, logits)
    return state, logits[:, -1].float()


def begin_state(model: Any, sources: list[list[int]] | None, batch: int, cache: str, capacity: int) -> Any:
    if sources is None:
        return model.begin(batch=batch, cache=cache, capacity=capacity)
    ids, layout, _ = next(blocks(sources, "right", max(len(row) for row in sources), device_of(model)))
    return model.begin(ids, layout, cache=cache, capacity=capacity)


def blocks(rows: list[list[int]], side: str, chunk: int, device: torch.device) -> Iterator[tuple[Tensor, Layout, list[int]]]:
    """Ragged rows, padded on a side, as blocks of at most `chunk` columns: ids [B, t], layout, real tokens a row."""
    width = max(len(row) for row in rows)
    shift = [width - len(row) if side == "left" else 0 for row in rows]
    for left in range(0, width, chunk):
        right = min(left + chunk, width)
        spans = [(min(max(left - s, 0), len(row)), min(max(right - s, 0), len(row))) for row, s in zip(rows, shift)]
        counts = [last - first for first, last in spans]
        ids = torch.zeros(len(rows), right - left, dtype=torch.long)
        for number, (row, (first, last)) in enumerate(zip(rows, spans)):
            column = right - left - (last - first) if side == "left" else 0
            ids[number, column : column + last - first] = torch.tensor(row[first:last], dtype=torch.long)
        starts = [first for first, _ in spans]
        layout = Layout.from_lengths(counts, right - left, side=side, starts=starts, device=device)
        yield ids.to(device), layout, counts


def device_of(model: Any) -> torch.device:
    parameters = model.parameters() if isinstance(model, nn.Module) else iter(())
    return next((p.device for p in parameters), torch.device("cpu"))


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Evaluation mode inside, every module's own flag as found outside; a model already in it is not touched at all."""
    training = [m for m in model.modules() if m.training] if isinstance(model, nn.Module) else []
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
