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
from attnlib.generate.rules import Chain, Known, Texts
from attnlib.generate.sources import heard, listens, named
from attnlib.layout import Layout

Prompts = Sequence[Sequence[int]] | Sequence[str] | Sequence[Tensor] | Tensor


class Tokenizer(Protocol):
    """What generation needs of a tokenizer. Also read, if there: bos_id, eos_id, mask_id, template."""

    def encode(self, text: str, /) -> Sequence[int]: ...
    def decode(self, ids: Sequence[int], /) -> str: ...


@dataclass(frozen=True)
class Job:
    """A checked request: rows of the decoder, of the source (encoder-decoder only), and all that is not per row.

    sources: ids, or features [B, channels, frames] of models that listen.
    """

    model: Any
    options: Sampling
    rows: list[list[int]]
    sources: list[list[int]] | Tensor | None
    most: list[int]  # tokens that each row may hold in the end, its prompt included
    eos: frozenset[int]
    rules: Chain
    tokenizer: Tokenizer | None

    def texts(self, device: torch.device) -> Texts:
        """What the rows hold before the first new token, for the rules."""
        read = self.rows if self.sources is None else self.sources
        return Texts.of(self.rows, [[]] * len(read) if isinstance(read, Tensor) else read, self.most, device)

    def asked(self, row: int) -> tuple[Sequence[int], ...]:
        """Everything the model was given for this row: what its random numbers are drawn by."""
        if self.sources is None:
            return (self.rows[row],)
        return (named(self.sources[row]) if isinstance(self.sources, Tensor) else self.sources[row], self.rows[row])


def prepare(
    model: Any,
    prompts: Prompts,
    options: Sampling,
    *,
    attention_mask: Tensor | None,
    layout: Layout | None,
    decoder_prompts: Prompts | None,
    start: int | Sequence[int] | None,
    tokenizer: Tokenizer | None,
) -> Job:
    """Checks everything before the model runs."""
    if is_kind(model, "encoder"):
        raise UsageError("model", "is an encoder", "generation needs a decoder or an encoder-decoder",
                         "score() gives pseudo-log-likelihoods of an encoder")  # fmt: skip
    need_head(model)
    vocab, ends = vocab_of(model), ends_of(options, tokenizer)
    check_ids([sorted(ends)], vocab, "generate.eos")
    rules = Chain(options.rules, Known(vocab, tuple(sorted(ends)), device_of(model)))
    if options.stop and tokenizer is None:
        raise UsageError("generate.stop", "is given without a tokenizer", "stop strings need one", "tokenizer=...")
    both = is_kind(model, "encoder_decoder")
    sources: list[list[int]] | Tensor | None = None
    if listens(model):
        rows, sources = [], heard(model, prompts, "prompts")
    else:
        rows = as_rows(prompts, "prompts", attention_mask=attention_mask, layout=layout, tokenizer=tokenizer, end=both)
        sources = check_ids(rows, vocab_of(model, source=True), "prompts", filled=True) if both else None
    count = len(rows if sources is None else sources)
    if both or start is not None or not all(rows):
        starts = _starts(model, tokenizer, options.start if start is None else start, count)
    else:  # no row begins with it: it may be a config's bos that the vocabulary has not
        starts = [None] * count
    if both:
        if decoder_prompts is None and options.decoder_prompt:
            decoder_prompts = [options.decoder_prompt] * len(starts)
        rows = decoder_rows(decoder_prompts, starts, tokenizer)
    elif decoder_prompts is not None:
        raise UsageError("decoder_prompts", "given to a decoder", "are for encoder-decoders", "give prompts only")
    place = "prompts" if sources is None else "decoder_prompts"
    rows = [row or [first] if first is not None else row for row, first in zip(rows, starts)]
    check_ids(rows, vocab, place, filled=True)
    most = [_room(options, len(row), model.max_length, f"{place}.{number}") for number, row in enumerate(rows)]
    return Job(model, options, rows, sources, most, ends, rules, tokenizer)


def ends_of(options: Sampling, tokenizer: Tokenizer | None) -> frozenset[int]:
    """The ids that end a row: those chosen, or the tokenizer's eos."""
    eos = getattr(tokenizer, "eos_id", None)
    return frozenset(options.eos if options.eos is not None else () if eos is None else (eos,))


def _starts(model: Any, tokenizer: Tokenizer | None, given: int | Sequence[int] | None, count: int) -> list[int | None]:
    """What each row begins with where it has no prompt."""
    if given is None or isinstance(given, int):
        return [start_of(model, tokenizer, given)] * count
    if len(given) != count:
        raise LayoutError("start", f"{len(given)} ids for {count} prompts", "must be one for all, or one each")
    return [start_of(model, tokenizer, one) for one in given]


def _room(options: Sampling, held: int, positions: int | None, place: str) -> int:
    """The length that a row may have in the end, as the options and the model's positions have it."""
    most = options.room(held, positions)
    if most <= held:
        raise LayoutError(place, f"holds {held} tokens", f"max_length is {most}, which leaves no room",
                          "give max_new_tokens instead")  # fmt: skip
    if positions is not None and most > positions:
        raise LayoutError(place, f"{held} tokens and {most - held} new ones are {most}",
                          f"the model's positions end at {positions}", "lower max_new_tokens")  # fmt: skip
    return most


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


def decoder_rows(given: Prompts | None, starts: list[int | None], tokenizer: Tokenizer | None) -> list[list[int]]:
    """The decoder's prompt of each source: the start id, and what was given after it."""
    rows = [[] for _ in starts] if given is None else as_rows(given, "decoder_prompts", tokenizer=tokenizer)
    if len(rows) != len(starts):
        raise LayoutError("decoder_prompts", f"{len(rows)} for {len(starts)} prompts", "must be one each")
    return [row if start is None or row[:1] == [start] else [start, *row] for row, start in zip(rows, starts)]


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
    # pads of shorter rows take columns too: a cache of fixed size holds the longest prompt and the longest answer
    room = width + max(most - len(row) for row, most in zip(job.rows, job.most))
    state = begin_state(job.model, job.sources, len(job.rows), job.options.cache, room)
    state.horizon = tuple(job.most)  # a row scales as if alone
    logits = torch.empty(0)
    for ids, layout, _ in blocks(job.rows, "left", job.options.prefill_chunk or width, device_of(job.model)):
        logits = job.model.step(ids, layout, state, at=slice(-1, None))
        need_head(job.model, logits)
    return state, logits[:, -1].float()


def begin_state(model: Any, sources: list[list[int]] | Tensor | None, batch: int, cache: str, capacity: int) -> Any:
    if sources is None:
        return model.begin(batch=batch, cache=cache, capacity=capacity)
    if isinstance(sources, Tensor):
        return model.begin(sources, cache=cache, capacity=capacity)
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
