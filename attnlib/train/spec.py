"""TrainSpec: the section `train` of a config."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from attnlib.spec import FieldError, Spec
from attnlib.train.objectives import CausalLM, Objective
from attnlib.train.optim import AdamW, Optimizer
from attnlib.train.schedule import Cosine, Schedule

Count = Annotated[int, Field(ge=1)]


class InitFrom(Spec):
    """Begin with the weights of another model's or run's folder; `head: new` leaves the head as it was initialised."""

    from_: str
    head: Literal["keep", "new"] = "keep"


class EvaluateSpec(Spec):
    """When held-out rows are scored, and on how many of them.

    every: steps between evaluations (None: only at the end). rows: of each split, on the way; at the end all are used.
    match: how many rows are also generated and compared exactly (encoder-decoders with pairs), None = all.
    harder: whether the split by held-out words is scored too, where there is one.
    patience: evaluations without a better loss after which the run ends early. batch_size: None = that of a step.
    """

    every: Count | None = None
    at_end: bool = True
    rows: Count | None = None
    match: Annotated[int, Field(ge=0)] | None = None
    harder: bool = True
    patience: Count | None = None
    batch_size: Count | None = None

    @model_validator(mode="after")
    def _evaluates(self) -> Self:
        if self.patience is not None and self.every is None:
            raise FieldError("patience", "is given without every", "wish steps between evaluations")
        return self


class TrainSpec(Spec):
    """How a model learns.

    steps, seconds:      the budget, one of them; schedules count by its fraction. Seconds are those spent in steps.
    batch_size:          examples a step, over all parts and processes.
    length:              most tokens a sequence.
    accumulate:          parts that a step's batch is computed in; changes memory, not what is learnt.
    clip:                greatest norm of the gradient over all parameters, None = no bound.
    freeze:              patterns of parameter names that stay as they are, "embedding.*".
    checkpointing:       recompute activations of blocks in the backward.
    checkpoint_every:    steps between checkpoints; one is always written at the end and on SIGTERM and Ctrl-C.
    keep:                how many checkpoints are kept.
    log_every:           steps between rows of metrics.jsonl.
    """

    steps: Count | None = None
    seconds: Annotated[float, Field(gt=0)] | Count | None = None
    batch_size: Count = 32
    length: Annotated[int, Field(ge=2)] = 128
    accumulate: Count = 1
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    objective: Objective = CausalLM()
    optimizer: Optimizer = AdamW()
    schedule: Schedule = Cosine()
    clip: Annotated[float, Field(gt=0)] | None = 1.0
    init: InitFrom | None = None
    freeze: tuple[str, ...] = ()
    checkpointing: bool = False
    evaluate: EvaluateSpec = EvaluateSpec()
    checkpoint_every: Count | None = None
    keep: Count = 2
    log_every: Count = 10
    tensorboard: bool = False
    plot: bool = True

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if (self.steps is None) == (self.seconds is None):
            have = "neither steps nor seconds is" if self.steps is None else "both steps and seconds are"
            raise FieldError("steps", f"{have} given", "wish one of them")
        if self.batch_size % self.accumulate:
            raise FieldError("accumulate", f"{self.accumulate} parts", f"wish a divisor of batch_size {self.batch_size}")
        return self

    def spent(self, step: float, elapsed: float) -> float:
        """The fraction of the budget that is gone after `step` steps and `elapsed` seconds, at most 1."""
        return min(step / self.steps if self.steps is not None else elapsed / (self.seconds or 1.0), 1.0)
