"""Nystromformer: softmax attention approximated through landmarks, means of parts of the text."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from attnlib.attention.backends.choose import choose
from attnlib.attention.backends.protocol import AttentionCall
from attnlib.attention.backends.reference import exact, products, weights
from attnlib.attention.linformer import refuse_decoding, refuse_places
from attnlib.attention.means import grouped_means
from attnlib.attention.pooling import refuse_beyond, seats, text_of, texts_a_row
from attnlib.attention.scope import Scope
from attnlib.attention.scores import SoftmaxSpec
from attnlib.attention.softmax import MixerSpec, Role, SoftmaxAttention, SoftmaxAttentionSpec
from attnlib.layout import Layout
from attnlib.spec import FieldError


class Landmarks(NamedTuple):
    """number: of all texts of a row. of [B, T]: the landmark of each token; real [B, T]; layout: where landmarks stand;
    whole [B, T]: tokens of texts so short that each is a landmark of its own."""

    number: int
    of: Tensor
    real: Tensor
    layout: Layout
    whole: Tensor


class NystromAttention(SoftmaxAttention):
    """softmax(q L_k^T) Z softmax(L_q k^T) v + conv(v), L the means of q and of k over `count` parts of the text.

    Xiong et al. 2021, arXiv:2102.03902. Z nears the pseudo-inverse of softmax(L_q L_k^T) by six steps of an iteration of
    Razavi et al. (2014). Token p of a text of n is in part floor(p count / n); a text of at most `count` tokens is softmax
    attention itself. conv [H, kernel] is one sum over neighbours for all channels of a head.
    """

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.count: int = 1
        self.length: int | None = None
        self.together = False
        self.conv: nn.Parameter | None = None

    def _weigh(self, x: Tensor, q: Tensor, entry: dict[str, Tensor], call: AttentionCall, scope: Scope) -> Tensor:
        layout, k, v = call.visibility.q, entry["k"], entry["v"]
        marks = self.landmarks(layout)
        if marks is None:
            y = self._attend(q, k, v, call, scope)
        else:
            near, far, turned, inverse = self._kernels(q, k, marks, call, scope)
            read = choose(turned, k, v, far, scope.backend)(turned, k, v, far)  # [B, H, L, D]
            values = (inverse @ exact_of(read).unflatten(2, (-1, self.count))).flatten(2, 3).to(v.dtype)
            y = self._attend(q, self._means(k, marks).repeat_interleave(q.shape[1] // k.shape[1], 1), values, near, scope)
            own = read.gather(2, marks.of[:, None, :, None].expand_as(y))
            y = torch.where(marks.whole[:, None, :, None], own, y)
        return y if self.conv is None else y + self.neighbours(v, layout)

    @property
    def max_length(self) -> int | None:
        """Longest text in tokens; None = no bound."""
        return None if self.length is None or self.length <= self.count else self.length

    def landmarks(self, layout: Layout) -> Landmarks | None:
        """None where every token is one of its own."""
        if (self.length or layout.tokens) <= self.count:
            return None
        refuse_beyond(layout, self.max_length, self.path)
        key = ("landmarks", self.count, self.length)
        found: Landmarks = layout.once(key, lambda: landmarks_of(layout, self.count, self.length))
        return found

    def _means(self, x: Tensor, marks: Landmarks) -> Tensor:
        return grouped_means(x, marks.of, marks.real, marks.number).to(x.dtype)

    def _kernels(
        self, q: Tensor, k: Tensor, marks: Landmarks, call: AttentionCall, scope: Scope
    ) -> tuple[AttentionCall, AttentionCall, Tensor, Tensor]:
        """Queries at landmarks, landmarks at keys, the queries' landmarks, and Z [B, H, S, count, count] of each text."""
        layout = call.visibility.q
        near = AttentionCall(scope.sight(self.mask, layout, marks.layout, self.num_heads), self.rule, call.dropout)
        far = AttentionCall(scope.sight(self.mask, marks.layout, layout, self.num_heads), self.rule)
        asking, asked = self._means(q, marks), self._means(k, marks)
        with exact(q.device):
            parts = [t.unflatten(2, (-1, self.count)).transpose(1, 2).flatten(0, 1) for t in (asking, asked)]
            scores = products(parts[0], parts[1], self.rule.scale).unflatten(0, (q.shape[0], -1)).transpose(1, 2)
            seen = None
            if marks.layout.segments is not None:
                held = (marks.layout.segments >= 0).unflatten(1, (-1, self.count))[:, None, :, None]  # [B, 1, S, 1, m]
                seen = held & held.transpose(-1, -2)
            square = self.rule.normaliser(scores, seen)
            return near, far, asking, pseudo_inverse(square, together=self.together)

    def neighbours(self, v: Tensor, layout: Layout) -> Tensor:
        """[B, H, T, D]: the sum over o of w[h, o] v[t + o - kernel // 2] over columns of the same text."""
        assert self.conv is not None
        v = v.repeat_interleave(self.num_heads // v.shape[1], 1)
        weight, reach = self.conv.to(v.dtype), self.conv.shape[1] // 2
        flat = v.transpose(1, 2).flatten(2)  # [B, T, H * D]
        kernel = weight.repeat_interleave(self.d_head, 0)[:, None]  # [H * D, 1, kernel]
        if layout.segments is None:
            near: Tensor = F.conv1d(flat.transpose(1, 2), kernel, padding=reach, groups=kernel.shape[0])  # [B, H * D, T]
            return near.unflatten(1, (self.num_heads, -1)).transpose(2, 3)  # type: ignore[no-any-return]
        total = torch.zeros_like(v)
        segments = F.pad(layout.segments, (reach, reach), value=-1)
        padded = F.pad(v, (0, 0, reach, reach))
        for o in range(weight.shape[1]):
            alike = (segments[:, o : o + layout.tokens] == layout.segments) & (layout.segments >= 0)
            part = padded[:, :, o : o + layout.tokens].masked_fill(~alike[:, None, :, None], 0.0)
            total = total + weight[:, o, None, None] * part
        return total

    def implied_weights(
        self, x: Tensor, layout: Layout, scope: Scope, *, rows: slice = slice(None), memory: object = None
    ) -> Tensor:
        """[B, H, R, K]: the product of the three kernels, without the convolution; some may be below 0."""
        turn = self._turn(layout, x, scope)
        q, k = self._queries(x, turn), self._entry(x, turn)["k"]
        call = AttentionCall(scope.sight(self.mask, layout, layout, self.num_heads), self.rule)
        marks = self.landmarks(layout)
        if marks is None:
            return weights(q, k, call, rows=rows)
        near, far, asking, inverse = self._kernels(q, k, marks, call, scope)
        last = weights(asking, k, far)
        turned = (inverse @ last.unflatten(2, (-1, self.count))).flatten(2, 3)
        found = weights(q, self._means(k, marks), near, rows=rows) @ turned
        at = marks.of[:, rows]
        own = last.gather(2, at[:, None, :, None].expand(-1, last.shape[1], -1, last.shape[3]))
        return torch.where(marks.whole[:, None, rows, None], own, found)


def landmarks_of(layout: Layout, count: int, length: int | None = None) -> Landmarks:
    """The landmarks of each text of a layout, `count` a text; of a `length`, fewer where a text is shorter."""
    text, real = text_of(layout)
    texts = texts_a_row(layout)
    own = torch.zeros(layout.batch, texts, dtype=torch.long, device=text.device).scatter_add(1, text, real.long())
    tokens = own.gather(1, text) if length is None else torch.full_like(text, length)
    part = layout.positions * tokens.clamp(max=count) // tokens.clamp(min=1)
    of = torch.where(real, text * count + part.clamp(max=count - 1), 0)
    full = layout.tokens >= count and length in (None, layout.tokens)
    where = seats(layout, of, texts * count, count, full=full)
    return Landmarks(texts * count, of, real, where, real & (tokens <= count))


def pseudo_inverse(a: Tensor, *, steps: int = 6, together: bool = False) -> Tensor:
    """Z near the pseudo-inverse of a [.., m, m] whose rows sum to 1: Z' = Z (13 - A Z (15 - A Z (7 - A Z))) / 4.

    Z begins at a^T over the largest sum of a column: of each matrix, or, together, of all there are.
    """
    sums = a.sum(-2, keepdim=True)
    most = sums.amax() if together else sums.amax(-1, keepdim=True)
    z = a.transpose(-1, -2) / most.clamp(min=torch.finfo(a.dtype).tiny)
    one = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    for _ in range(steps):
        met = a @ z
        z = 0.25 * z @ (13 * one - met @ (15 * one - met @ (7 * one - met)))
    return z


def exact_of(x: Tensor) -> Tensor:
    """In at least float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class NystromSpec(SoftmaxAttentionSpec, kind="nystrom"):
    """Softmax attention approximated through landmarks, for encoders (Nystromformer, Xiong et al. 2021).

    length: landmarks lie as in a text of so many tokens, of which shorter ones have the first; null = over each text's own.
    Up to num_landmarks it is softmax attention. kernel: of a convolution of the values, odd, null = none. together: one
    start for the inverses of all heads and texts of a batch, as in the published code, so that a text's numbers depend a
    little on its batch; false = each its own.
    """

    num_landmarks: int = Field(default=64, ge=1)
    length: int | None = Field(default=None, ge=1)
    kernel: int | None = Field(default=None, ge=1)
    together: bool = False
    made: ClassVar[type[SoftmaxAttention]] = NystromAttention
    places: ClassVar[bool] = False

    @model_validator(mode="after")
    def _centred(self) -> Self:
        if self.kernel is not None and self.kernel % 2 == 0:
            raise FieldError("kernel", str(self.kernel), "must be odd, with as many tokens on either side")
        return self

    def check_decoding(self) -> None:
        refuse_decoding(self)

    def check(self, *, d_model: int, role: Role) -> None:
        if role == "cross":
            raise FieldError("kind", "nystrom", "landmarks of queries are means over all, tokens to come among them",
                             "wish softmax, linformer or linear")  # fmt: skip
        refuse_places(self, "landmarks are means over the whole text, tokens to come among them")
        if self.scores.softcap is not None or not isinstance(self.scores.normaliser, SoftmaxSpec):
            raise FieldError("scores", "with a cap, or another normaliser than softmax", "the three kernels are softmaxes")
        super().check(d_model=d_model, role=role)

    def exact(self) -> MixerSpec:
        return self.replace(num_landmarks=1 << 30, length=None)  # softmax attention, and the same convolution

    def build(self, *, d_model: int, layer: int, d_memory: int | None = None) -> nn.Module:
        built = super().build(d_model=d_model, layer=layer, d_memory=d_memory)
        assert isinstance(built, NystromAttention)
        built.count, built.length, built.together = self.num_landmarks, self.length, self.together
        if self.kernel is not None:
            built.conv = nn.Parameter(torch.empty(built.num_heads, self.kernel))
            nn.init.normal_(built.conv, std=self.kernel**-0.5)
        return built
