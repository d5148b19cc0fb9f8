"""Decode, encode and training step of three published shapes, beside transformers on the same weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import weights
from benchmarks.table import Options, Row, compared
from benchmarks.timing import Thunk, interleaved

LIMIT = 1.05
PARITY = 2e-5  # of the greatest logit
STEPS = 16  # tokens of a timed decode


def gpt2(options: Options) -> Iterator[Row]:
    """GPT-2 small: 16 tokens after a prompt of 64; logits of 4 x 128 tokens' ends; forward and backward of 4 x 128."""
    ours, theirs = _ready(weights.gpt2(options.quick))
    prompt, batch = _ids(50257, 1, 64), _ids(50257, 4, 128)
    with torch.no_grad():
        _same("gpt2", ours(batch).logits, theirs(batch).logits)
        yield _row("gpt2 decode", lambda: _decode(ours, None, prompt), lambda: _their_decode(theirs, prompt), options,
                   "16 tokens after a prompt of 64, batch 1, 124 M parameters")  # fmt: skip
        yield _row("gpt2 encode", lambda: lambda: ours(batch, at=slice(-1, None)),
                   lambda: lambda: theirs(batch, logits_to_keep=1, use_cache=False), options,
                   "4 x 128 tokens, logits of the last")  # fmt: skip

    def loss() -> Tensor:
        return F.cross_entropy(ours(batch, at=slice(None, -1)).logits.flatten(0, 1), batch[:, 1:].flatten())

    # the name of the loss, which transformers else guesses with a warning
    theirs.loss_type = "ForCausalLM"
    yield from _training("gpt2 train", (ours, theirs), loss, lambda: theirs(batch, labels=batch).loss, options,
                         "4 x 128 tokens")  # fmt: skip


def bert(options: Options) -> Iterator[Row]:
    """BERT base: hidden states, and forward and backward with all logits, of 4 x 128 tokens and their mask."""
    ours, theirs = _ready(weights.bert(options.quick))
    batch, seen = _ids(30522, 4, 128), torch.ones(4, 128, dtype=torch.long)
    with torch.no_grad():
        _same("bert", ours(batch, attention_mask=seen).logits, theirs(batch, attention_mask=seen).logits)
        yield _row("bert encode", lambda: lambda: ours(batch, attention_mask=seen, head=False),
                   lambda: lambda: theirs.bert(batch, attention_mask=seen), options,
                   "4 x 128 tokens to hidden states, 110 M parameters")  # fmt: skip

    def loss() -> Tensor:
        return F.cross_entropy(ours(batch, attention_mask=seen).logits.flatten(0, 1), batch.flatten())

    yield from _training("bert train", (ours, theirs), loss,
                         lambda: theirs(batch, attention_mask=seen, labels=batch).loss, options,
                         "4 x 128 tokens, a label each")  # fmt: skip


def t5(options: Options) -> Iterator[Row]:
    """T5 small: 16 tokens after a source of 128; its encoder alone; forward and backward of 4 x 128 to 4 x 64."""
    ours, theirs = _ready(weights.t5(options.quick))
    one, source, target = _ids(32128, 1, 128), _ids(32128, 4, 128), _ids(32128, 4, 64)
    shifted = torch.cat([torch.zeros_like(target[:, :1]), target[:, :-1]], 1)
    with torch.no_grad():
        _same("t5", ours(source, shifted).logits, theirs(input_ids=source, labels=target).logits)
        first = shifted[:1, :1]
        yield _row("t5 decode", lambda: _decode(ours, one, first), lambda: _their_decode(theirs, first, one), options,
                   "16 tokens after a source of 128, batch 1, 60 M parameters")  # fmt: skip
        yield _row("t5 encode", lambda: lambda: ours.encode(source), lambda: lambda: theirs.encoder(source), options,
                   "4 x 128 tokens to hidden states")  # fmt: skip

    def loss() -> Tensor:
        return F.cross_entropy(ours(source, shifted).logits.flatten(0, 1), target.flatten())

    yield from _training("t5 train", (ours, theirs), loss, lambda: theirs(input_ids=source, labels=target).loss, options,
                         "4 x 128 to 4 x 64 tokens")  # fmt: skip


def _ids(vocab_size: int, batch: int, tokens: int) -> Tensor:
    return torch.randint(1, vocab_size, (batch, tokens))


def _ready(pair: tuple[Any, Any]) -> tuple[Any, Any]:
    ours, theirs = pair
    if theirs.config._attn_implementation != "sdpa":
        raise RuntimeError(f"{type(theirs).__name__} runs {theirs.config._attn_implementation}, not sdpa")
    return ours.eval(), theirs.eval()


def _same(name: str, ours: Tensor, theirs: Tensor) -> None:
    """The same function is timed on both sides, or nothing is."""
    error = float((ours - theirs).abs().max() / theirs.abs().max())
    if not error <= PARITY:
        raise RuntimeError(f"{name}: outputs differ by {error:.1e} of the greatest, at most {PARITY:.0e} is parity")


def _row(name: str, ours: Callable[[], Thunk], theirs: Callable[[], Thunk], options: Options, note: str) -> Row:
    times = interleaved(ours, theirs, repeats=options.repeats, clock=options.clock)
    return compared(name, *times, limit=LIMIT, note=note + ", float32")


def _training(
    name: str,
    models: tuple[Any, Any],
    loss: Callable[[], Tensor],
    their_loss: Callable[[], Tensor],
    options: Options,
    note: str,
) -> Iterator[Row]:
    """Forward, loss and backward with dropout 0.1; the optimizer, the same on both sides, is left out."""
    with torch.no_grad():
        _same(name, loss(), their_loss())
    ours, theirs = (model.train() for model in models)

    def step(model: Any, made: Callable[[], Tensor]) -> Thunk:
        model.zero_grad()
        return lambda: torch.autograd.backward(made())

    yield _row(name, lambda: step(ours, loss), lambda: step(theirs, their_loss), options,
               note + ", forward and backward, dropout 0.1")  # fmt: skip


def _decode(model: Any, source: Tensor | None, prompt: Tensor) -> Thunk:
    """Greedy steps after the prompt, which is prepared for."""
    state = model.begin(source, batch=len(prompt)) if source is None else model.begin(source)
    first = model.step(prompt, None, state)

    def steps() -> None:
        logits = first
        for _ in range(STEPS):
            logits = model.step(logits[:, -1].argmax(-1, keepdim=True), None, state)

    return steps


def _their_decode(model: Any, prompt: Tensor, source: Tensor | None = None) -> Thunk:
    if source is None:
        call = partial(model, use_cache=True, logits_to_keep=1)
    else:
        call = partial(model, encoder_outputs=model.encoder(source), use_cache=True)
    name = "input_ids" if source is None else "decoder_input_ids"
    first = call(**{name: prompt})

    def steps() -> None:
        out = first
        for _ in range(STEPS):
            out = call(**{name: out.logits[:, -1].argmax(-1, keepdim=True)}, past_key_values=out.past_key_values)

    return steps
