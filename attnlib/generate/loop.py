"""The loop: prefill, then choose a token a row and step, until every row has ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from attnlib.errors import UsageError
from attnlib.generate import sampling
from attnlib.generate.beam import beam_search
from attnlib.generate.defaults import choose
from attnlib.generate.options import Sampling
from attnlib.generate.prompts import Job, Prompts, Tokenizer, begin, evaluating, prepare
from attnlib.generate.results import Event, FinishReason, Generation
from attnlib.generate.rules import Texts
from attnlib.generate.stops import Detokenizer, StopStrings
from attnlib.layout import Layout


def generate(
    model: Any,
    prompts: Prompts,
    *,
    decoder_prompts: Prompts | None = None,
    attention_mask: Tensor | None = None,
    layout: Layout | None = None,
    tokenizer: Tokenizer | None = None,
    start: int | Sequence[int] | None = None,
    sampling: Sampling | None = None,
    **options: Any,
) -> list[Generation]:
    """Continues every prompt; `n` results each, in the order of the prompts.

    prompts          id lists of any lengths, texts (with a tokenizer), or ids [B, T] with `attention_mask` or `layout`;
                     the source of an encoder-decoder
    decoder_prompts  encoder-decoder only: what the output begins with, after the start id
    tokenizer        anything with encode(text) and decode(ids); gives `text`, and the eos unless `eos` is given
    start            the id a decoder begins with where there is no prompt, or one a prompt; None = what the choices say,
                     or the model's spec, or the tokenizer's bos
    sampling         the choices; None = those of the generation config that the model came with, else greedy.
                     `options` are fields of `Sampling` and rules by name over them: max_new_tokens, temperature, top_k, ...

    Greedy unless told otherwise. A row does not depend on the rows beside it: sampling draws one number a step from a
    hash of (seed, sample number, the row's prompt, step). Equal prompts thus give equal results: n asks for several.

    LayoutError for prompts that do not fit the model; UsageError and SpecErrors for what cannot be asked of it.
    """
    chosen = choose(model, sampling, options, words=_given(decoder_prompts))
    job = prepare(model, prompts, chosen, attention_mask=attention_mask, layout=layout,
                  decoder_prompts=decoder_prompts, start=start, tokenizer=tokenizer)  # fmt: skip
    if chosen.num_beams > 1:
        return beam_search(job)
    rows = _rows(job)
    for _ in _events(job, rows):
        pass
    return [row.result() for row in rows]


def stream(
    model: Any,
    prompts: Prompts,
    *,
    decoder_prompts: Prompts | None = None,
    attention_mask: Tensor | None = None,
    layout: Layout | None = None,
    tokenizer: Tokenizer | None = None,
    start: int | Sequence[int] | None = None,
    sampling: Sampling | None = None,
    **options: Any,
) -> Iterator[Event]:
    """The same as `generate`, token by token: one event a row and step, in the order of the rows.

    The texts of a row's events, joined, are the text `generate` gives. Text is held back while it ends within a code
    point or may be the beginning of a stop string. What is asked is checked at the call, not at the first event.
    """
    chosen = choose(model, sampling, options, words=_given(decoder_prompts))
    if chosen.num_beams > 1:
        raise UsageError("generate.num_beams", f"is {chosen.num_beams} in a stream", "beams are known only at the end",
                         "use generate()")  # fmt: skip
    job = prepare(model, prompts, chosen, attention_mask=attention_mask, layout=layout,
                  decoder_prompts=decoder_prompts, start=start, tokenizer=tokenizer)  # fmt: skip
    return _events(job, _rows(job))


def _given(decoder_prompts: Prompts | None) -> dict[str, None]:
    """What a model's config need not say, as the call does."""
    return {} if decoder_prompts is None else {"forced_decoder_ids": None}


class _Row:
    """One result in the making."""

    def __init__(self, job: Job, prompt: int, sample: int) -> None:
        self.prompt, self.sample = prompt, sample
        self.key = sampling.key(job.options.seed, sample, *job.asked(prompt))
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.text: list[str] = []
        self.reason: FinishReason | None = None
        self._eos, self._most = job.eos, job.most[prompt] - len(job.rows[prompt])
        self._pieces = None if job.tokenizer is None else Detokenizer(job.tokenizer.decode, job.rows[prompt])
        self._stops = StopStrings(job.options.stop)

    def accept(self, token: int, logprob: float) -> Event:
        if logprob != logprob:
            raise UsageError(f"prompts.{self.prompt}", f"logits are not numbers after {len(self.ids)} new tokens",
                             "must be finite", "the weights may hold NaN, or overflow in this dtype")  # fmt: skip
        self.ids.append(token)
        self.logprobs.append(logprob)
        text = ""
        if token in self._eos:
            self.reason = "eos"
        elif self._pieces is not None:
            text = self._stops.push(self._pieces.push(token))
        if self.reason is None and self._stops.found:
            self.reason = "stop"
        if self.reason is None and len(self.ids) >= self._most:
            self.reason = "length"
        if self.reason is not None and self._pieces is not None:
            text += self._stops.push(self._pieces.finish()) + self._stops.finish()
            self.reason = "stop" if self._stops.found else self.reason
        self.text.append(text)
        return Event(self.prompt, self.sample, token, logprob, text, self.reason)

    def result(self) -> Generation:
        assert self.reason is not None
        text = None if self._pieces is None else "".join(self.text)
        return Generation(tuple(self.ids), text, tuple(self.logprobs), self.reason, self.prompt, self.sample,
                          sum(self.logprobs))  # fmt: skip


def _rows(job: Job) -> list[_Row]:
    return [_Row(job, prompt, sample) for prompt in range(len(job.rows)) for sample in range(job.options.n)]


@torch.no_grad()
def _events(job: Job, rows: list[_Row]) -> Iterator[Event]:
    if not rows:
        return
    with evaluating(job.model):
        state, logits = begin(job)
        if job.options.n > 1:
            copies = torch.arange(len(job.rows), device=logits.device).repeat_interleave(job.options.n)
            state.select(copies)
            logits = logits[copies]
        texts = job.texts(logits.device).rows(torch.tensor([row.prompt for row in rows], device=logits.device))
        while True:
            tokens, logprobs = _choose(job, logits, texts, rows)
            for row, token, logprob in zip(rows, tokens.tolist(), logprobs.tolist()):
                yield row.accept(token, logprob)
            kept = [place for place, row in enumerate(rows) if row.reason is None]
            if not kept:
                return
            texts = texts.then(tokens)
            if len(kept) < len(rows):
                chosen = torch.tensor(kept, device=logits.device)
                state.select(chosen)
                tokens, texts, rows = tokens[chosen], texts.rows(chosen), [rows[place] for place in kept]
            logits = job.model.step(tokens[:, None], state.following(1), state)[:, -1].float()


def _choose(job: Job, logits: Tensor, texts: Texts, rows: list[_Row]) -> tuple[Tensor, Tensor]:
    """The next token of every row, [B], and its log-probability under the untouched logits, [B]."""
    scores = job.rules.scores(logits, texts)
    job.rules.need_some(scores, texts.new)
    if job.options.temperature == 0:
        tokens = sampling.greedy(scores)
    else:
        numbers = [sampling.uniform(row.key, len(row.ids)) for row in rows]
        tokens = sampling.draw(job.rules.drawn(sampling.temperature(scores, job.options.temperature), texts), numbers)
    return tokens, logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(-1)
