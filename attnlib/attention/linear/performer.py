"""FAVOR+: softmax attention approximated by positive orthogonal random features."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from attnlib.attention.linear.kernel import KernelAttention
from attnlib.attention.linear.mixer import LinearMixer, LinearMixerSpec
from attnlib.attention.softmax import MixerSpec, SoftmaxAttentionSpec

MOST = 40.0  # largest exponent of a feature of a key: sums of exp(40) v are far from float32's end


class FavorAttention(KernelAttention):
    """phi(x) = exp(w x' - |x'|^2 / 2) / sqrt(m), x' = x D^-1/4, so that E phi(q) phi(k) = exp(q k / sqrt D).

    The m rows w [m, D] are normal, orthogonal in blocks of D, drawn once and kept with the weights (Choromanski et al. 2020,
    arXiv:2009.14794). Constants that a ratio of sums does not see keep the exponents small.
    """

    projection: Tensor

    def draw(self, count: int, seed: int) -> None:
        """Draw the features; `seed` tells layers apart."""
        self.register_buffer("projection", orthogonal(count, self.heads.d_key, seed))

    def features(self, x: Tensor, *, query: bool) -> Tensor:
        rows = self.projection.to(x.dtype)
        x = x * x.shape[-1] ** -0.25
        power = x @ rows.T - x.square().sum(-1, keepdim=True) / 2
        if query:
            shift = power.detach().amax(-1, keepdim=True)
        else:  # the greatest a key can reach: one constant for all, whatever the text
            shift = (rows.square().sum(-1).max() / 2 - MOST).clamp(min=0.0)
        return (power - shift).exp() * rows.shape[0] ** -0.5  # type: ignore[no-any-return]


def orthogonal(count: int, width: int, seed: int) -> Tensor:
    """count rows of normal vectors, each block of `width` of them orthogonal: [count, width]."""
    if torch.get_default_device().type == "meta":
        return torch.empty(count, width)
    made = torch.Generator("cpu").manual_seed(seed)
    blocks, dtype = -(-count // width), torch.float64
    square = torch.randn(blocks, width, width, generator=made, dtype=dtype, device="cpu")
    basis, upper = torch.linalg.qr(square)
    basis = basis * upper.diagonal(dim1=1, dim2=2).sign()[:, None]  # else not all turns are alike, and estimates biased
    turned = basis.transpose(1, 2).reshape(-1, width)[:count]
    lengths = torch.randn(count, width, generator=made, dtype=dtype, device="cpu").norm(dim=1, keepdim=True)
    return (turned * lengths).to(torch.get_default_device(), torch.get_default_dtype())  # type: ignore[no-any-return]


class PerformerSpec(LinearMixerSpec, kind="performer"):
    """Kernel attention that estimates softmax's without bias, self or cross (FAVOR+, Choromanski et al. 2020).

    num_features: of each head, null = 4 d_head; the variance falls as they grow. seed: of their draw.
    """

    num_features: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0)
    mixer: ClassVar[type[LinearMixer]] = FavorAttention
    crosses: ClassVar[bool] = True

    def exact(self) -> MixerSpec | None:
        if self.conv is not None or self.rotary is not None or self.d_value is not None:
            return None  # softmax attention has none of the first and the last, and turns queries rather than features
        names = ("num_heads", "num_kv_heads", "d_head", "mask", "bias")
        return SoftmaxAttentionSpec(**{name: getattr(self, name) for name in names})

    def build(self, *, d_model: int, layer: int, d_memory: int | None = None) -> nn.Module:
        built = super().build(d_model=d_model, layer=layer, d_memory=d_memory)
        assert isinstance(built, FavorAttention)
        built.draw(self.num_features or 4 * built.heads.d_key, self.seed * 100_003 + layer)
        return built
