"""Sampling: every choice of a generation, in one frozen spec."""

from __future__ import annotations

import math
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from attnlib.errors import UsageError, nearest
from attnlib.spec import Spec


class Sampling(Spec):
    """How tokens are chosen and when a row ends. The default is greedy.

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
    eos                 ids that end a row; None = those the model's spec names
    seed                equal seeds give equal results
    prefill_chunk       prompt tokens a forward; None = all at once
    cache               kind of key-value cache
    """

    max_new_tokens: int = Field(default=64, ge=1)
    temperature: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)
    top_k: int | None = Field(default=None, ge=1)
    top_p: float | None = Field(default=None, ge=0.0, le=1.0)
    min_p: float | None = Field(default=None, ge=0.0, le=1.0)
    repetition_penalty: float = Field(default=1.0, gt=0.0, allow_inf_nan=False)
    n: int = Field(default=1, ge=1)
    num_beams: int = Field(default=1, ge=1)
    length_penalty: float = Field(default=1.0, allow_inf_nan=False)
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
        """`base` with `options` over it; UsageError `generate.OPTION: ...` for what does not hold."""
        for name in options:
            if name not in cls.model_fields:
                raise UsageError(f"generate.{name}", "no such option", "must be a field of Sampling",
                                 nearest(name, cls.model_fields))  # fmt: skip
        if base is not None and not options:
            return base
        values = {name: getattr(base, name) for name in cls.model_fields} if base is not None else {}
        values.update({name: _plain(name, value) for name, value in options.items()})
        try:
            return cls(**values)
        except ValidationError as error:
            raise _usage(error) from None


def _plain(name: str, value: Any) -> Any:
    """People give one stop string, one eos id, or a list: tuples all."""
    if name in ("stop", "eos") and value is not None:
        return tuple(value) if isinstance(value, list | tuple | set | frozenset) else (value,)
    return value


def _usage(error: ValidationError) -> UsageError:
    first = error.errors(include_url=False)[0]
    inner = first.get("ctx", {}).get("error")
    if isinstance(inner, UsageError):
        return UsageError(f"generate.{inner.path}", inner.fact, inner.wish, inner.hint)
    place = ".".join(str(part) for part in first["loc"] if part not in ("bool", "int", "float", "str"))
    wish = first["msg"].replace("Input should", "should")
    value = first["input"]
    fact = "is not a number" if isinstance(value, float) and math.isnan(value) else f"is {value!r}"
    return UsageError(f"generate.{place}", fact, wish[:1].lower() + wish[1:])
