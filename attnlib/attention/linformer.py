"""Linformer: keys and values projected along the text to a few, so that attention costs as much a token at any length."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from attnlib.attention.backends.protocol import AttentionCall
from attnlib.attention.backends.reference import weights
from attnlib.attention.caches import KeyValueCache, Memory
from attnlib.attention.masks import Everything
from attnlib.attention.pooling import refuse_beyond, seats, text_of, texts_a_row
from attnlib.attention.rotary import Turn
from attnlib.attention.scope import Scope
from attnlib.attention.softmax import MixerSpec, Role, SoftmaxAttention, SoftmaxAttentionSpec
from attnlib.layout import Layout
from attnlib.spec import FieldError


class Linformer(SoftmaxAttention):
    """softmax(q (E k)^T * scale) F v, E and F [R, N], R projected tokens of texts of up to N (Wang et al. 2020).

    arXiv:2006.04768, E and F shared by the heads of a layer. A token meets the column of its position; what is no token
    meets none, so that a shorter text is one padded with zeros. Texts of one row are projected apart.
    """

    def project(self, rank: int, max_length: int, *, share: bool) -> None:
        """Make E, and F unless it is E."""
        self.rank, self.max_length = rank, max_length
        self.e = nn.Parameter(torch.empty(rank, max_length))
        self.f = None if share else nn.Parameter(torch.empty(rank, max_length))
        for table in (self.e, self.f):
            if table is not None:
                nn.init.normal_(table, std=max_length**-0.5)

    def _columns(
        self, x: Tensor, layout: Layout, turn: Turn | None, cache: KeyValueCache | None
    ) -> tuple[dict[str, Tensor], Layout]:
        return self._projected(self._entry(x, turn), layout), self.seated(layout)

    def remember(self, x: Tensor, layout: Layout) -> Memory:
        """Projected keys and values of a source x [B, S, M]: as few for any length."""
        return Memory(self._projected(self._entry(x, None), layout), layout)

    def forward(self, x: Tensor, layout: Layout | None = None, scope: Scope | None = None, *,
                memory: Memory | None = None, cache: Any = None) -> Tensor:  # fmt: skip
        if memory is not None:
            memory = Memory(memory.entry, self.seated(memory.layout))
        return super().forward(x, layout, scope, memory=memory, cache=cache)

    def seated(self, layout: Layout) -> Layout:
        """Where the projected tokens of a layout stand."""
        return layout.once(("projected", self.rank), lambda: self._seated(layout))  # type: ignore[no-any-return]

    def _seated(self, layout: Layout) -> Layout:
        if layout.segments is None and layout.tokens:
            return Layout.dense(layout.batch, self.rank, device=layout.device)
        text, _ = text_of(layout)
        number = texts_a_row(layout)
        found = seats(layout, text, number, number)  # one a text
        assert found.segments is not None
        places = torch.arange(self.rank, device=text.device).repeat(number).expand(layout.batch, -1)
        return Layout(places, found.segments.repeat_interleave(self.rank, 1))

    def _projected(self, entry: dict[str, Tensor], layout: Layout) -> dict[str, Tensor]:
        refuse_beyond(layout, self.max_length, self.path)
        text, real = text_of(layout)
        number = texts_a_row(layout)
        own = (text[:, None] == torch.arange(number, device=text.device)[:, None]) & real[:, None]  # [B, S, T]
        found = {}
        for name, table in (("k", self.e), ("v", self.e if self.f is None else self.f)):
            spread = table.t()[layout.positions.clamp(max=self.max_length - 1)].transpose(1, 2)  # [B, R, T]
            rows = (spread[:, None] * own[:, :, None]).flatten(1, 2).to(entry[name].dtype)  # [B, S * R, T]
            found[name] = rows[:, None] @ entry[name]
        return found

    def implied_weights(
        self, x: Tensor, layout: Layout, scope: Scope, *, rows: slice = slice(None), memory: Memory | None = None
    ) -> Tensor:
        """[B, H, R, K]: the weights of the projected tokens by F, signed and of any sum."""
        keys = layout if memory is None else memory.layout
        turn = self._turn(layout, x, scope)
        entry = memory.entry if memory is not None else self._projected(self._entry(x, turn), layout)
        call = AttentionCall(scope.sight(self.mask, layout, self.seated(keys), self.num_heads), self.rule)
        found = weights(self._queries(x, turn), entry["k"], call, rows=rows)
        one = torch.eye(keys.tokens, device=x.device, dtype=found.dtype).expand(keys.batch, 1, -1, -1)
        return found @ self._projected({"k": one, "v": one}, keys)["v"]


class LinformerSpec(SoftmaxAttentionSpec, kind="linformer"):
    """Attention over `rank` projections of all keys and values, for encoders, and as cross-attention (Linformer, 2020).

    max_length: tokens of the longest text. share: values are projected as keys are. All else as in softmax attention; no
    mask and no term, since what is projected stands nowhere.
    """

    rank: int = Field(default=128, ge=1)
    max_length: int = Field(default=512, ge=1)
    share: bool = False
    made: ClassVar[type[SoftmaxAttention]] = Linformer
    places: ClassVar[bool] = False

    def check_decoding(self) -> None:
        refuse_decoding(self)

    def check(self, *, d_model: int, role: Role) -> None:
        refuse_places(self, "projections are sums over the whole text, tokens to come among them")
        super().check(d_model=d_model, role=role)

    def exact(self) -> MixerSpec:
        given = self.model_fields_set & SoftmaxAttentionSpec.model_fields.keys()
        return SoftmaxAttentionSpec(**{name: getattr(self, name) for name in given})

    def build(self, *, d_model: int, layer: int, d_memory: int | None = None) -> nn.Module:
        built = super().build(d_model=d_model, layer=layer, d_memory=d_memory)
        assert isinstance(built, Linformer)
        built.project(self.rank, self.max_length, share=self.share)
        return built


def refuse_places(spec: SoftmaxAttentionSpec, why: str) -> None:
    """Refuse a mask and a term: both read where keys stand, and these keys are of a whole text."""
    if not isinstance(spec.mask, Everything):
        raise FieldError("mask", f"of kind {spec.mask.kind} for {spec.kind}", f"{why}: wish everything",
                         "softmax, latent, linear and others can be causal")  # fmt: skip
    if spec.term is not None:
        raise FieldError("term", f"{spec.term.kind} for {spec.kind}", "its keys stand nowhere: wish no term",
                         "softmax attention takes any")  # fmt: skip


def refuse_decoding(spec: SoftmaxAttentionSpec) -> None:
    """Refuse to stand in a decoder, where tokens come one by one."""
    raise FieldError("kind", f"{spec.kind} in a decoder", "it reads tokens to come and keeps no cache: wish another",
                     "softmax, latent, linear and others can be causal")  # fmt: skip
