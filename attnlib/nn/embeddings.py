"""Embeddings: what a token, its place and its type give to the residual stream."""

from __future__ import annotations

import math
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from attnlib.errors import LayoutError
from attnlib.layout import Layout
from attnlib.nn.linear import Linear
from attnlib.nn.norms import Norm
from attnlib.spec import FieldError, Spec


class PositionSpec(Spec, slot="position"):
    """What a token's place adds to its embedding."""

    def build(self, width: int) -> nn.Module:
        raise NotImplementedError


class LearnedPosition(nn.Module):
    """weight[position + offset]: a trained vector for each place."""

    def __init__(self, width: int, *, max_length: int, offset: int = 0) -> None:
        super().__init__()
        self.max_length, self.offset = max_length, offset
        self.weight = nn.Parameter(torch.empty(max_length + offset, width))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, layout: Layout) -> Tensor:
        _check_extent(layout, self.max_length, "are learned")
        return _rows(self.weight, layout.encoding + self.offset, "embedding.position")

    def extra_repr(self) -> str:
        return f"max_length={self.max_length}, width={self.weight.shape[1]}"


class LearnedSpec(PositionSpec, kind="learned"):
    """max_length trained vectors, after `offset` unused rows (OPT, BART: 2)."""

    max_length: int = Field(ge=1)
    offset: int = Field(default=0, ge=0)

    def build(self, width: int) -> nn.Module:
        return LearnedPosition(width, max_length=self.max_length, offset=self.offset)


Order = Literal["half_split", "interleaved"]


def sinusoids(
    positions: Tensor, width: int, *, order: Order = "interleaved", closed: bool = False, dtype: torch.dtype = torch.float32
) -> Tensor:
    """sin and cos of position * 10000^(-2i/M) (Vaswani et al. 2017), [..] -> [.., M]; half-split [sin | cos] or interleaved.

    closed: rates from 1 to 1/10000 inclusive, 10000^(-2i/(M-2)), as the paper's own code had them. dtype: of the angles.
    """
    half = (width + 1) // 2
    steps = torch.arange(half, device=positions.device, dtype=dtype)
    angle = positions[..., None] * torch.exp(steps * (-2.0 * math.log(10000.0) / (max(width - 2, 1) if closed else width)))
    parts = angle.sin(), angle.cos()  # [.., M/2] each
    table = torch.cat(parts, -1) if order == "half_split" else torch.stack(parts, -1).flatten(-2)
    return table[..., :width]


class Sinusoidal(nn.Module):
    """`sinusoids` of the positions; with `max_length` looked up in a table, which a checkpoint carries if it is `stored`."""

    table: Tensor | None

    def __init__(
        self,
        width: int,
        *,
        order: Order = "interleaved",
        closed: bool = False,
        max_length: int | None = None,
        stored: bool = False,
    ) -> None:
        super().__init__()
        self.width, self.order, self.closed, self.max_length = width, order, closed, max_length
        self.register_buffer("table", None, persistent=stored)
        if max_length is not None:
            self.reset_buffers(torch.get_default_device())

    def reset_buffers(self, device: torch.device) -> None:
        """The table as it is computed; the angles in float64, for at a thousand positions rounding shows."""
        positions = torch.arange(self.max_length or 0, device=device)
        table = sinusoids(positions, self.width, order=self.order, closed=self.closed, dtype=torch.float64)
        self.table = table.to(torch.get_default_dtype())

    def forward(self, layout: Layout) -> Tensor:
        if self.table is None:
            return sinusoids(layout.encoding, self.width, order=self.order, closed=self.closed)
        _check_extent(layout, self.table.shape[0], "have sinusoids")
        return _rows(self.table, layout.encoding, "embedding.position")

    def extra_repr(self) -> str:
        return f"width={self.width}, {self.order}" + (f", max_length={self.max_length}" if self.max_length else "")


class SinusoidalSpec(PositionSpec, kind="sinusoidal"):
    """Nothing learned; any length.

    order: [sin | cos] or by turns. closed: slowest rate exactly 1/10000. max_length: null = no bound, else a table of so
    many positions, which is part of the checkpoint where it is `stored`.
    """

    order: Order = "interleaved"
    closed: bool = False
    max_length: int | None = Field(default=None, ge=1)
    stored: bool = False

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.stored and self.max_length is None:
            raise FieldError("stored", "true without max_length", "wish the rows of the table that is stored")
        return self

    def build(self, width: int) -> nn.Module:
        return Sinusoidal(
            width, order=self.order, closed=self.closed, max_length=self.max_length, stored=self.stored
        )


class Embedding(nn.Module):
    """token[ids] * scale + type + position, then norm, dropout and projection to M (factorised).

    `token_project` projects the token's vector before the others are added, `project` the sum of all. With `norm_last`
    norm and dropout come after that.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        d_embedding: int,
        d_sum: int,
        scale: float = 1.0,
        position: nn.Module | None = None,
        types: int = 0,
        norm: nn.Module | None = None,
        token_project: nn.Module | None = None,
        project: nn.Module | None = None,
        norm_last: bool = False,
        dropout: float = 0.0,
        round_scale: bool = True,
        token: nn.Embedding | None = None,
    ) -> None:
        super().__init__()
        self.token = nn.Embedding(vocab_size, d_embedding) if token is None else token
        self.position = position
        self.token_type = nn.Embedding(types, d_sum) if types else None
        self.token_project, self.norm, self.project = token_project, norm, project
        self.drop = nn.Dropout(dropout) if dropout else None
        self.after = ("project", "norm", "drop") if norm_last else ("norm", "drop", "project")
        self.scale, self.round_scale = scale, round_scale

    @property
    def max_length(self) -> int | None:
        """Positions there are vectors for; None = no bound."""
        return getattr(self.position, "max_length", None)

    def forward(
        self, ids: Tensor | None, layout: Layout, *, embeds: Tensor | None = None, types: Tensor | None = None
    ) -> Tensor:
        """ids [B, T] or embeds [B, T, E] (looked up already, not yet scaled) -> [B, T, M]."""
        if ids is not None:
            embeds = _rows(self.token.weight, ids, "ids")
        assert embeds is not None
        if embeds.shape[-1] != self.token.weight.shape[1]:
            raise LayoutError("embeds", f"are {embeds.shape[-1]} wide", f"must be {self.token.weight.shape[1]}")
        x = embeds
        if self.scale != 1.0:
            x = x * (torch.tensor(self.scale, dtype=x.dtype) if self.round_scale else self.scale)
        if self.token_project is not None:
            x = self.token_project(x)
        if self.token_type is not None:
            x = x + (self.token_type.weight[0] if types is None else _rows(self.token_type.weight, types, "types"))
        if self.position is not None:
            x = x + self.position(layout).to(x.dtype)
        for name in self.after:
            if (part := getattr(self, name)) is not None:
                x = part(x)
        return x


class EmbeddingSpec(Spec):
    """d_embedding: null = d_model, else factorised. scale: a number or "sqrt" (of d_embedding). types: token types.

    project: what a factorised embedding projects to d_model, the whole sum of token, type and position (ELECTRA, ALBERT)
    or the token's vector before the others are added (OPT); project_bias: whether that has a bias. norm_last: the norm
    comes after the projection (DeBERTa-v2).

    round_scale: in half precision the scale is rounded before it multiplies (Gemma), or not (BART)."""

    d_embedding: int | None = Field(default=None, ge=1)
    scale: float | Literal["sqrt"] = 1.0
    round_scale: bool = True
    position: PositionSpec | None = None
    types: int = Field(default=0, ge=0)
    norm: Norm | None = None
    project: Literal["sum", "token"] = "sum"
    project_bias: bool = True
    norm_last: bool = False
    dropout: float = Field(default=0.0, ge=0, lt=1)

    def build(self, *, vocab_size: int, d_model: int, token: nn.Embedding | None = None) -> Embedding:
        """`token`: a table that is there already, shared with another embedding."""
        width = self.d_embedding or d_model
        project = Linear(width, d_model, bias=self.project_bias) if width != d_model else None
        first = self.project == "token"
        inner = d_model if first else width
        return Embedding(
            vocab_size=vocab_size,
            d_embedding=width,
            d_sum=inner,
            scale=math.sqrt(width) if self.scale == "sqrt" else float(self.scale),
            position=None if self.position is None else self.position.build(inner),
            types=self.types,
            norm=None if self.norm is None else self.norm.build(d_model if self.norm_last else inner),
            token_project=project if first else None,
            project=None if first else project,
            norm_last=self.norm_last,
            dropout=self.dropout,
            round_scale=self.round_scale,
            token=token,
        )


def _check_extent(layout: Layout, most: int, are: str) -> None:
    extent = layout.extent
    if extent is not None and extent > most:
        raise LayoutError("embedding.position", f"the text is {extent} tokens long", f"at most {most} positions {are}")


def _rows(table: Tensor, index: Tensor, path: str) -> Tensor:
    """table[index], with an error that names the place where an index lies outside."""
    try:
        return F.embedding(index, table)
    except IndexError:
        low, high = int(index.min()), int(index.max())
        raise LayoutError(path, f"hold {low}..{high}", f"must lie in 0..{table.shape[0] - 1}") from None
