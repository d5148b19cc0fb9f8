"""A small grammar like the real one, defined outside the package as a user's would be."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from attnlib.spec import FieldError, Spec


class ToyNorm(Spec, slot="toy_norm"):
    """How activations are normalised."""


class ToyLayerNorm(ToyNorm, kind="layer"):
    """Mean and variance."""

    eps: float = Field(1e-5, gt=0, le=1)
    bias: bool = True


class ToyRMSNorm(ToyNorm, kind="rms"):
    """Root mean square only."""

    eps: float = Field(1e-6, gt=0, le=1)
    unit_offset: bool = False


class ToyMask(Spec, slot="toy_mask"):
    """Who sees whom."""

    @classmethod
    def short(cls, tree: Any) -> Any:
        if isinstance(tree, list | tuple):
            return {"kind": "all", "masks": tree}
        if isinstance(tree, int) and not isinstance(tree, bool):
            return {"kind": "window", "before": tree}
        return tree

    @classmethod
    def short_forms(cls) -> tuple[Any, ...]:
        return (int, tuple[ToyMask, ...])


class ToyCausal(ToyMask, kind="causal"):
    pass


class ToyWindow(ToyMask, kind="window"):
    before: int = Field(ge=0)
    after: int = Field(0, ge=0)


class ToyAll(ToyMask, kind="all"):
    masks: Annotated[tuple[ToyMask, ...], Field(min_length=1)]


class ToyMixer(Spec, slot="toy_mixer", default="softmax"):
    pass


class ToySoftmax(ToyMixer, kind="softmax"):
    num_heads: int = Field(gt=0, description="query heads")
    num_kv_heads: int | None = Field(None, gt=0)
    mask: ToyMask | None = None
    scale: float | Literal["inverse_sqrt", "inverse"] = "inverse_sqrt"
    bias: tuple[Literal["q", "k", "v", "out"], ...] = ()

    @model_validator(mode="after")
    def _groups(self) -> Self:
        if self.num_kv_heads and self.num_heads % self.num_kv_heads:
            raise FieldError("num_kv_heads", f"{self.num_kv_heads} groups", f"wish a divisor of {self.num_heads}")
        return self


class ToyLinear(ToyMixer, kind="linear"):
    num_heads: int = Field(gt=0)
    features: int = Field(16, gt=0)


class ToyBlock(Spec):
    attention: ToyMixer
    norm: ToyNorm = Field(default_factory=ToyLayerNorm)
    final: ToyNorm | Literal["same"] | None = None
    d_ff: int = Field(gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)


class ToyStack(Spec):
    num_layers: int = Field(gt=0, le=1000)
    block: ToyBlock | None = None
    blocks: dict[str, ToyBlock] | None = None
    pattern: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.block is None) == (self.blocks is None):
            raise ValueError("block and blocks, wish one of them")
        unknown = sorted(set(self.pattern) - set(self.blocks or ()))
        if unknown:
            raise FieldError("pattern", f"unknown block {unknown[0]!r}", "wish names of blocks")
        return self


class ToyHead(Spec, slot="toy_head"):
    pass


class ToyTied(ToyHead, kind="tied"):
    pass


class ToyClassify(ToyHead, kind="classify"):
    labels: dict[str, int]


class ToyModel(Spec, slot="toy_model"):
    d_model: int = Field(gt=0)
    vocab_size: int = Field(gt=0)
    tied: bool = True


class ToyDecoder(ToyModel, kind="decoder"):
    stack: ToyStack
    heads: tuple[ToyHead, ...] = ()


class ToyEncoder(ToyModel, kind="encoder"):
    stack: ToyStack
    types: int = Field(0, ge=0)


class ToyConfig(Spec):
    format: int = 1
    model: ToyModel
    init: ToyInit | None = None


class ToyInit(Spec):
    from_: str
    freeze: tuple[str, ...] = ()


LLAMA = """\
format: 1
model:
  kind: decoder
  d_model: 48
  vocab_size: 320
  stack:
    num_layers: 3
    blocks:
      local: &block
        d_ff: 96
        norm: {kind: rms, eps: 1e-5}
        attention: &heads
          num_heads: 4
          num_kv_heads: 2
          mask: [causal, {kind: window, before: 8}]
      global:
        <<: *block
        attention: {<<: *heads, mask: causal, scale: 0.5}
    pattern: [local, local, global]
  heads:
    - tied
    - {kind: classify, labels: {good: 1, bad: 0}}
"""

BERT = """\
model:
  kind: encoder
  d_model: 32
  vocab_size: 100
  types: 2
  tied: false
  stack:
    num_layers: 2
    block:
      d_ff: 64
      dropout: 0.1
      norm: layer
      final: same
      attention: {num_heads: 4, bias: [q, k, v, out]}
init:
  from: some/folder
  freeze: [embedding.*]
"""
