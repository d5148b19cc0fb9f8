"""How a query meets a key: a map of each before their dot product, so that every kernel computes every kind."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnlib.attention.exact import exact
from attnlib.spec import Spec


class Product(nn.Module):
    """query(q) . key(k): maps of q [.., H, T, D] and k [.., G, T, D], before rotary turns them. The base leaves both."""

    def query(self, q: Tensor) -> Tensor:
        return q

    def key(self, k: Tensor) -> Tensor:
        return k


class ProductSpec(Spec, slot="product"):
    """How a query meets a key."""

    def scale(self, d_head: int) -> float:
        """The scale of the scores where a config gives none."""
        return float(d_head**-0.5)

    def build(self, *, num_heads: int, d_head: int) -> Product:
        raise NotImplementedError


class DotSpec(ProductSpec, kind="dot"):
    """q . k, scaled by d_head^-0.5 (Vaswani et al. 2017)."""

    def build(self, *, num_heads: int, d_head: int) -> Product:
        return Product()


class Bilinear(Product):
    """q^T W[h] k, W [H, D, D] (the general score of Luong et al. 2015, arXiv:1508.04025); begins as the dot product."""

    def __init__(self, *, num_heads: int, d_head: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_heads, d_head, d_head))
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Begins as the identity."""
        self.weight.copy_(torch.eye(self.weight.shape[1]))

    def query(self, q: Tensor) -> Tensor:
        return q @ self.weight.to(q.dtype)


class BilinearSpec(ProductSpec, kind="bilinear"):
    """q^T W k with a learned W for each head (Luong et al. 2015), scaled as the dot product."""

    def build(self, *, num_heads: int, d_head: int) -> Product:
        return Bilinear(num_heads=num_heads, d_head=d_head)


class Cosine(Product):
    """min(exp(t[h]), 100) cos(q, k), t a learned logarithm that begins at log 10 (Swin v2, Liu et al. 2021).

    arXiv:2111.09883: the temperature that the paper divides by is never below 0.01. Vectors of zeros meet with score 0.
    """

    most = 100.0

    def __init__(self, *, num_heads: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.empty(num_heads))
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Begins at a factor of 10."""
        self.log_scale.fill_(math.log(10.0))

    def query(self, q: Tensor) -> Tensor:
        scale = exact(self.log_scale).clamp(max=math.log(self.most)).exp()
        return (self._unit(q) * scale[:, None, None]).to(q.dtype)

    def key(self, k: Tensor) -> Tensor:
        return self._unit(k).to(k.dtype)

    def _unit(self, x: Tensor) -> Tensor:
        return F.normalize(exact(x), dim=-1, eps=1e-12)


class CosineSpec(ProductSpec, kind="cosine"):
    """The cosine of q and k by a learned, clamped factor of each head (Swin v2); scores.scale is 1 unless given."""

    def scale(self, d_head: int) -> float:
        return 1.0

    def build(self, *, num_heads: int, d_head: int) -> Product:
        return Cosine(num_heads=num_heads)
