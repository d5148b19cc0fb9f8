"""Sampling: every choice of a generation, in one frozen spec."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from attnlib.errors import UsageError
from attnlib.spec import Spec


class Sampling(Spec):
    """How tokens are chosen and when a row ends. The default is greedy. SpecErrors where values do not hold.

    Filters apply in the order repetition penalty, temperature, top-k, top-p, min-p.

    max_new_tokens      most tokens generated a row
    temperature         0 = greedy; otherwise logits / temperature
    top_k, top_p, min_p see `attnlib.generate.sampling`; only with temperature > 0
    repetition_penalty  1 = none (Keskar et al. 2019)
    n                   results a prompt
    num_beams           > 1 = beam search; `n` of the beams are returned, best first
    length_penalty      a beam's score is its log-probability / length ** length_penalty
    early_stopping      True: a prompt is done with its first `num_beams` finished beams; False: also once the best open
                        beam, at its present length, cannot enter them; "never": only when no longer beam could
    stop                strings that end a row; the text is cut before them
    eos                 ids that end a row; None = the tokenizer's eos, if one is given
    seed                equal seeds give equal results
    prefill_chunk       prompt tokens a forward; None = all at once
    cache               kind of key-value cache
    """

    max_new_tokens: int = Field(default=64, ge=1)
    temperature: float = Field(default=0.0, ge=0.0)
    top_k: int | None = Field(default=None, ge=1)
    top_p: float | None = Field(default=None, ge=0.0, le=1.0)
    min_p: float | None = Field(default=None, ge=0.0, le=1.0)
    repetition_penalty: float = Field(default=1.0, gt=0.0)
    n: int = Field(default=1, ge=1)
    num_beams: int = Field(default=1, ge=1)
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    stop: tuple[str, ...] = ()
    eos: tuple[int, ...] | None = None
    seed: int = 0
    prefill_chunk: int | None = Field(default=None, ge=1)
    cache: Literal["growing", "static", "rolling"] = "growing"

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.num_beams > 1 and self.temperature > 0:
            raise UsageError("num_beams", f"is {self.num_beams} with temperature {self.temperature}",
                             "beam search does not sample", "leave out temperature, or num_beams")  # fmt: skip
        if self.num_beams > 1 and self.n > self.num_beams:
            raise UsageError("n", f"is {self.n} with num_beams {self.num_beams}", "must be at most num_beams")
        if self.num_beams > 1 and self.stop:
            raise UsageError("stop", f"is given with num_beams {self.num_beams}", "beam search ends at eos ids only")
        if self.temperature == 0:
            for name in ("top_k", "top_p", "min_p"):
                if getattr(self, name) is not None:
                    raise UsageError(name, f"is {getattr(self, name)} without sampling", "needs temperature > 0")
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
        return cls(**options) if base is None else base.replace(**options) if options else base
