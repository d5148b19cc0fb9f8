"""Front ends: how an encoder reads features of sound or the like, [B, C, frames], where others read tokens."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from attnlib.errors import LayoutError
from attnlib.layout import Layout
from attnlib.nn.embeddings import PositionSpec
from attnlib.nn.feed_forward import ACTIVATIONS, Activation
from attnlib.spec import Spec


class Features(nn.Module):
    """A front end: `read` makes S places of the frames, the forward adds what depends on where they stand."""

    channels: int
    d_model: int
    stride: int  # frames a place

    @property
    def max_length(self) -> int | None:
        """Most places; None = no bound."""
        raise NotImplementedError

    def read(self, features: Tensor) -> Tensor:
        """[B, C, frames] -> [B, S, M]."""
        raise NotImplementedError

    def forward(self, ids: None, layout: Layout, *, embeds: Tensor) -> Tensor:
        """[B, S, M] as `read` gives them -> [B, S, M] for the stack; the door of an embedding, without ids."""
        raise NotImplementedError


class FeaturesSpec(Spec, slot="features"):
    """How an encoder reads features."""

    def build(self, d_model: int) -> Features:
        raise NotImplementedError


class ConvFeatures(Features):
    """act(conv(x)), once a stride, then positions (Radford et al. 2022, arXiv:2212.04356): S = ceil(frames / strides)."""

    def __init__(
        self,
        *,
        channels: int,
        d_model: int,
        strides: tuple[int, ...],
        kernel: int,
        activation: Activation,
        position: nn.Module | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.channels, self.d_model, self.activation, self.dropout = channels, d_model, activation, dropout
        self.stride = 1
        self.convs = nn.ModuleList()
        for stride in strides:
            width = d_model if self.convs else channels
            self.convs.append(nn.Conv1d(width, d_model, kernel, stride=stride, padding=kernel // 2))
            self.stride *= stride
        self.position = position

    @property
    def max_length(self) -> int | None:
        return getattr(self.position, "max_length", None)

    def read(self, features: Tensor) -> Tensor:
        if features.dim() != 3 or features.shape[1] != self.channels or not features.is_floating_point():
            fact = f"are {features.dtype} of shape {tuple(features.shape)}"
            raise LayoutError("features", fact, f"must be floats [batch, {self.channels}, frames]")
        for conv in self.convs:
            features = ACTIVATIONS[self.activation](conv(features))
        return features.transpose(1, 2)  # [B, S, M]

    def forward(self, ids: None, layout: Layout, *, embeds: Tensor) -> Tensor:
        x = embeds if self.position is None else embeds + self.position(layout).to(embeds.dtype)
        return F.dropout(x, self.dropout) if self.dropout and self.training else x


class ConvFeaturesSpec(FeaturesSpec, kind="conv"):
    """Convolutions over [B, channels, frames] with an activation after each, then positions.

    strides: of each convolution; kernel: odd, so that frames keep their places. dropout: of what is read.
    """

    channels: int = Field(ge=1)
    strides: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(1, 2), min_length=1)
    kernel: Literal[1, 3, 5, 7, 9] = 3
    activation: Activation = "gelu"
    position: PositionSpec | None = None
    dropout: float = Field(default=0.0, ge=0, lt=1)

    def build(self, d_model: int) -> Features:
        return ConvFeatures(
            channels=self.channels,
            d_model=d_model,
            strides=self.strides,
            kernel=self.kernel,
            activation=self.activation,
            position=None if self.position is None else self.position.build(d_model),
            dropout=self.dropout,
        )
