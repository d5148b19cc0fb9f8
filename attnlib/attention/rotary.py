"""Rotary position embedding and its scalings. A rotary is a frozen value; it holds no tensor and learns nothing."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from attnlib.errors import LayoutError
from attnlib.layout import Layout
from attnlib.spec import FieldError, Spec

Turn = tuple[Tensor, Tensor]  # cos and sin, [B|1, 1, T, R/2] each
Lengths = int | tuple[int, ...]  # of every text, or of the text of each row
Spans = tuple[tuple[int, int, int, int], ...]


class Scaling(Spec, slot="rotary_scaling"):
    """Stretches rotary beyond the trained length."""

    reads_length: ClassVar[bool] = False  # fixed before prefill from prompt + new tokens, so no cached key turns stale

    def frequencies(self, width: int, base: float, length: int) -> tuple[Tensor, float]:
        """[R/2] inverse frequencies (radians a position) for R = width turned channels, and the factor on cos and sin."""
        raise NotImplementedError


def inverse_frequencies(width: int, base: float) -> Tensor:
    """[R/2] base^(-2i/R) in fp32."""
    return 1.0 / (base ** (torch.arange(0, width, 2).float() / width))


class Linear(Scaling, kind="linear"):
    """Positions divided by `factor` (position interpolation, Chen et al. 2023)."""

    factor: float = Field(gt=0)

    def frequencies(self, width: int, base: float, length: int) -> tuple[Tensor, float]:
        return inverse_frequencies(width, base) / self.factor, 1.0


class Dynamic(Scaling, kind="dynamic"):
    """NTK-aware base that grows with the length once it passes `original_length`."""

    reads_length: ClassVar[bool] = True
    factor: float = Field(gt=0)
    original_length: int = Field(ge=1)

    def frequencies(self, width: int, base: float, length: int) -> tuple[Tensor, float]:
        ratio = self.factor * max(length, self.original_length) / self.original_length - (self.factor - 1)
        return inverse_frequencies(width, base * ratio ** (width / (width - 2))), 1.0


class Llama3(Scaling, kind="llama3"):
    """Low frequencies divided by `factor`, high ones kept, a smooth ramp between (Llama 3.1)."""

    factor: float = Field(default=8.0, gt=0)
    low_freq_factor: float = Field(default=1.0, gt=0)
    high_freq_factor: float = Field(default=4.0, gt=0)
    original_length: int = Field(default=8192, ge=1)

    def frequencies(self, width: int, base: float, length: int) -> tuple[Tensor, float]:
        plain = inverse_frequencies(width, base)
        wave = 2 * math.pi / plain
        longest, shortest = self.original_length / self.low_freq_factor, self.original_length / self.high_freq_factor
        smooth = (self.original_length / wave - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        ramp = (1 - smooth) * plain / self.factor + smooth * plain
        return torch.where(wave > longest, plain / self.factor, torch.where(wave < shortest, plain, ramp)), 1.0


class Yarn(Scaling, kind="yarn"):
    """Per-channel blend of interpolation and extrapolation, with a factor on the scores (Peng et al. 2023)."""

    factor: float = Field(gt=0)
    original_length: int = Field(ge=1)
    beta_fast: float = Field(default=32.0, gt=0)
    beta_slow: float = Field(default=1.0, gt=0)
    attention_factor: float | None = Field(default=None, gt=0)
    truncate: bool = True

    def frequencies(self, width: int, base: float, length: int) -> tuple[Tensor, float]:
        def channel(turns: float) -> float:  # the channel that turns so often within the original length
            return width * math.log(self.original_length / (turns * 2 * math.pi)) / (2 * math.log(base))

        low, high = channel(self.beta_fast), channel(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, width - 1)
        ramp = ((torch.arange(width // 2).float() - low) / (high - low if high != low else 0.001)).clamp(0, 1)
        kept = 1 - ramp
        powers = base ** (torch.arange(0, width, 2).float() / width)
        mixed = 1.0 / (self.factor * powers) * (1 - kept) + 1.0 / powers * kept
        factor = self.attention_factor
        if factor is None:
            factor = 1.0 if self.factor <= 1 else 0.1 * math.log(self.factor) + 1.0
        return mixed, factor


class LongRope(Scaling, kind="longrope"):
    """A searched factor a channel, one list up to `original_length` and one beyond (Ding et al. 2024, Phi-3)."""

    reads_length: ClassVar[bool] = True
    short_factor: tuple[float, ...] = Field(min_length=1)
    long_factor: tuple[float, ...] = Field(min_length=1)
    original_length: int = Field(ge=1)
    factor: float = Field(default=1.0, gt=0)
    attention_factor: float | None = Field(default=None, gt=0)

    def frequencies(self, width: int, base: float, length: int) -> tuple[Tensor, float]:
        chosen = self.long_factor if length > self.original_length else self.short_factor
        powers = base ** (torch.arange(0, width, 2).float() / width)
        factor = self.attention_factor
        if factor is None:
            growth = math.log(self.factor) / math.log(self.original_length) if self.factor > 1 else 0.0
            factor = math.sqrt(1 + growth)
        return 1.0 / (torch.tensor(chosen) * powers), factor


class Rotary(Spec):
    """Turns pairs of channels of q and k by angle position * frequency (Su et al. 2021, arXiv:2104.09864).

    fraction: the part of the head that is turned, from its start. interleaved: pairs are (0, 1), (2, 3), ... as in the
    paper; otherwise (i, i + R/2), the half-split order of most public checkpoints. exact: in half precision q and k are
    turned in fp32 and rounded after; otherwise cos and sin are rounded before, as most do, and with `products` nothing else
    until the end (ModernBERT).
    """

    base: float = Field(default=10000.0, gt=1)
    fraction: float = Field(default=1.0, gt=0, le=1)
    interleaved: bool = False
    exact: bool | Literal["products"] = False
    scaling: Scaling | None = None

    def check(self, d_head: int) -> None:
        """Raises FieldError where it cannot turn heads of this width."""
        width = self.width(d_head)
        if width < 2:
            raise FieldError("rotary.fraction", str(self.fraction), f"must turn at least 2 of {d_head} channels")
        if isinstance(self.scaling, Dynamic) and width < 4:
            raise FieldError("rotary.scaling", f"dynamic over {width} turned channels", "must be over at least 4")
        if isinstance(self.scaling, LongRope):
            for name in ("short_factor", "long_factor"):
                if len(getattr(self.scaling, name)) != width // 2:
                    given = len(getattr(self.scaling, name))
                    raise FieldError(f"rotary.scaling.{name}", f"{given} factors", f"must be {width // 2}, one a pair")

    @property
    def reads_length(self) -> bool:
        return self.scaling is not None and self.scaling.reads_length

    def width(self, d_head: int) -> int:
        """Channels that are turned."""
        return int(d_head * self.fraction + 1e-6) // 2 * 2  # n / d_head * d_head may fall short of n

    def table(self, layout: Layout, d_head: int, dtype: torch.dtype, lengths: Lengths | None = None) -> Turn:
        """cos and sin [B|1, 1, T, R/2] at the layout's encoding positions, made once a layout.

        `lengths`: the final length of every text, or one for each row, where a cache will see more than this layout.
        """
        spans = self._spans(layout, lengths) if self.reads_length else ()
        dtype = torch.promote_types(dtype, torch.float32) if self.exact is True else dtype
        key = ("rotary", self, d_head, dtype, spans)
        table: Turn = layout.once(key, lambda: self._table(layout, d_head, dtype, spans))
        return table

    def _spans(self, layout: Layout, lengths: Lengths | None) -> Spans:
        """(row, first column, columns, final length) of every text, so that none depends on its neighbours."""
        rows = range(layout.batch)
        if isinstance(lengths, tuple):
            return tuple((row, 0, layout.tokens, lengths[row]) for row in rows)
        if lengths is None and layout.runs is not None:
            return tuple((*run, run[2]) for run in layout.runs)
        lengths = layout.extent if lengths is None else lengths
        if lengths is None:
            raise LayoutError("rotary.scaling", "the length of this layout is not known to the host",
                              "give layouts made by Layout.dense, from_lengths, from_mask or packed")  # fmt: skip
        return tuple((row, 0, layout.tokens, lengths) for row in rows)

    def _table(self, layout: Layout, d_head: int, dtype: torch.dtype, spans: Spans) -> Turn:
        at = layout.encoding[:1] if layout.is_dense and layout.encoded_at is None else layout.encoding
        exact = torch.promote_types(dtype, torch.float32)
        if self.scaling is None:
            frequencies, factor = inverse_frequencies(self.width(d_head), self.base), torch.ones(())
        else:
            known = sorted({length for *_, length in spans}) or [0]
            made = [self.scaling.frequencies(self.width(d_head), self.base, length) for length in known]
            frequencies, factor = made[0][0], torch.tensor(made[0][1], dtype=torch.float64)
            if len(known) > 1:  # texts of unlike lengths are turned unlike
                which = torch.zeros(layout.batch, layout.tokens, dtype=torch.long)
                for row, first, columns, length in spans:
                    which[row, first : first + columns] = known.index(length)
                at = layout.encoding
                frequencies = torch.stack([each for each, _ in made])[which][:, None]  # [B, 1, T, R/2]
                factor = torch.tensor([each for _, each in made], dtype=torch.float64)[which][:, None, :, None]
        angles = at[:, None, :, None].to(exact) * frequencies.to(at.device, exact)
        factor = factor.to(at.device, exact)
        kept = exact if self.exact else dtype
        return (angles.cos() * factor).to(dtype).to(kept), (angles.sin() * factor).to(dtype).to(kept)

    def turn(self, x: Tensor, table: Turn) -> Tensor:
        """x [B, H, T, D] with its first R channels turned."""
        cos, sin = table
        width = cos.shape[-1] * 2
        turned, rest = (x, None) if width == x.shape[-1] else (x[..., :width], x[..., width:])
        if self.interleaved:
            a, b = turned[..., 0::2], turned[..., 1::2]
            turned = torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2)
        else:
            a, b = turned.chunk(2, -1)
            turned = torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
        turned = turned.to(x.dtype)
        return turned if rest is None else torch.cat([turned, rest], -1)
