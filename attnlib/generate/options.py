"""Sampling: every choice of a generation, in one frozen spec."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from attnlib.errors import UsageError
from attnlib.generate.rules import Rule, folded
from attnlib.spec import FieldError, Spec

MOST = 64  # new tokens, where nothing is said
WIDEST = 1024  # results and beams of a prompt, which all run side by side
BOUNDS = ("max_new_tokens", "max_length")


class Sampling(Spec):
    """How tokens are chosen and when a row ends. The default is greedy. SpecErrors where values do not hold.

    Every rule can be given by its name, as generation configs name it: `Sampling(no_repeat_ngram_size=3, top_k=40)`;
    `attnlib.generate.Rule` has them all. Rules act in the order that transformers gives them; filters (top_h, top_k, top_p,
    min_p, typical_p, epsilon_cutoff, eta_cutoff) come last, after the temperature, and only with temperature > 0.

    max_new_tokens      most tokens generated a row; max_length: most tokens of a row, its prompt included (of an
                        encoder-decoder: the decoder's). Neither: 64 new ones, or as many as the model has positions for
    temperature         0 = greedy; otherwise logits / temperature
    rules               what changes the scores before a token is chosen
    n                   results a prompt, at most 1024, as num_beams is
    num_beams           > 1 = beam search; `n` of the beams are returned, best first
    length_penalty      a beam's score is its log-probability / length ** length_penalty
    early_stopping      True: a prompt is done with its first `num_beams` finished beams; False: also once the best open
                        beam, at its present length, cannot enter them; "never": only when no longer beam could
    stop                strings that end a row; the text is cut before them
    eos                 ids that end a row; None = those of the model's generation config, or the tokenizer's eos
    start               the id a decoder begins with where there is no prompt; one for all, or one a prompt
    decoder_prompt      ids that the output of an encoder-decoder begins with, after the start id; None = none
    seed                equal seeds give equal results
    prefill_chunk       prompt tokens a forward; None = all at once
    cache               kind of key-value cache
    """

    max_new_tokens: int | None = Field(default=None, ge=1)
    max_length: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=0.0, ge=0.0)
    rules: tuple[Rule, ...] = ()
    n: int = Field(default=1, ge=1, le=WIDEST)
    num_beams: int = Field(default=1, ge=1, le=WIDEST)
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    stop: tuple[str, ...] = ()
    eos: tuple[int, ...] | None = None
    start: int | tuple[int, ...] | None = None
    decoder_prompt: tuple[int, ...] | None = None
    seed: int = 0
    prefill_chunk: int | None = Field(default=None, ge=1)
    cache: Literal["growing", "static", "rolling"] = "growing"

    def __init__(self, /, **values: Any) -> None:
        super().__init__(**folded(values))

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.max_new_tokens is not None and self.max_length is not None:
            raise UsageError("max_length", f"is {self.max_length} with max_new_tokens {self.max_new_tokens}",
                             "one of them must say when a row ends")  # fmt: skip
        if self.num_beams > 1 and self.temperature > 0:
            raise UsageError("num_beams", f"is {self.num_beams} with temperature {self.temperature}",
                             "beam search does not sample", "temperature 0, or num_beams 1")  # fmt: skip
        if self.num_beams > 1 and self.n > self.num_beams:
            raise UsageError("n", f"is {self.n} with num_beams {self.num_beams}", "must be at most num_beams")
        if self.num_beams > 1 and self.stop:
            raise UsageError("stop", f"is given with num_beams {self.num_beams}", "beam search ends at eos ids only")
        if self.temperature == 0:
            for rule in self.rules:
                if rule.draws:
                    raise FieldError(rule.kind, f"is {rule.value()} without sampling", "needs temperature > 0")
            if self.num_beams == 1 and self.n > 1:
                raise UsageError("n", f"is {self.n} without sampling", "greedy results would all be equal",
                                 "give temperature > 0, or num_beams >= n")  # fmt: skip
        if any(not text for text in self.stop):
            raise UsageError("stop", "holds an empty string", "must hold texts to stop at")
        return self

    @classmethod
    def of(cls, base: Sampling | None = None, /, **options: Any) -> Sampling:
        """`base` with `options` over it; one stop string or eos id need not be put into a list."""
        for name in {"stop", "eos"} & options.keys():
            if isinstance(options[name], str | int):
                options[name] = (options[name],)
        if base is None:
            return cls(**options)
        if any(options.get(name) is not None for name in BOUNDS):
            options = {**dict.fromkeys(BOUNDS), **options}  # one bound takes the other's place
        return base.replace(**options) if options else base

    def room(self, held: int, positions: int | None) -> int:
        """How many tokens a row that holds `held` may hold in the end; `positions`: as many as the model has."""
        if self.max_new_tokens is not None:
            return held + self.max_new_tokens
        if self.max_length is not None:
            return self.max_length
        return held + MOST if positions is None else min(held + MOST, max(positions, held + 1))
