"""A mixer of other mathematics, made here: linear attention with a recurrent state, in a Decoder like any other."""

from __future__ import annotations

from typing import Any

import pytest
import test_decoding
import test_ordinary_modules
import test_padding_and_packing
import torch
import toys
from torch import Tensor, nn
from torch.nn import functional as F

from attnlib.attention.caches import LayerCache, Memory, Slots
from attnlib.attention.masks import Retention
from attnlib.attention.scope import Scope
from attnlib.attention.softmax import MixerSpec
from attnlib.errors import SpecError
from attnlib.layout import Layout
from attnlib.models.spec import ModelSpec
from attnlib.spec import FieldError, read


class State:
    """sum phi(k) v^T and sum phi(k) so far: [B, H, D, D + 1], of a size that does not grow."""

    def __init__(self) -> None:
        self.sums: Tensor | None = None

    def select(self, rows: Tensor) -> None:
        self.sums = None if self.sums is None else self.sums.index_select(0, rows)

    def save(self) -> object:
        return self.sums  # never written in place

    def restore(self, saved: object) -> None:
        self.sums = saved if isinstance(saved, Tensor) else None

    def nbytes(self) -> int:
        return 0 if self.sums is None else self.sums.numel() * self.sums.element_size()


class LinearAttention(nn.Module):
    """phi(q) (sum phi(k) v^T) / phi(q) (sum phi(k)) over the tokens so far, phi = elu + 1 (Katharopoulos et al. 2020)."""

    def __init__(self, *, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.path = num_heads, "mixer"
        self.qkv, self.out = nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)

    def forward(
        self, x: Tensor, layout: Layout, scope: Scope, *, memory: Memory | None = None, cache: State | None = None
    ) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # [B, H, T, D] each
        q, k = F.elu(q) + 1, F.elu(k) + 1
        if layout.real is not None:
            k = k * layout.real[:, None, :, None]  # a pad changes no state
        pairs = k[..., None] * F.pad(v, (0, 1), value=1.0)[..., None, :]  # [B, H, T, D, D + 1]
        sums = pairs.cumsum(2)
        if layout.segments is not None:  # a new segment begins anew
            before = F.pad(sums, (0, 0, 0, 0, 1, 0))[:, :, :-1]
            begins = F.pad(layout.segments[:, 1:] != layout.segments[:, :-1], (1, 0)) & (layout.segments > 0)
            last = torch.where(begins, torch.arange(layout.tokens), 0).cummax(1).values
            taken = before.gather(2, last[:, None, :, None, None].expand_as(sums))
            sums = sums - torch.where((last > 0)[:, None, :, None, None], taken, 0.0)
        if cache is not None:
            sums = sums if cache.sums is None else sums + cache.sums[:, :, None]
            cache.sums = sums[:, :, -1]
        mixed = torch.einsum("bhtd,bhtde->bhte", q, sums)
        y = mixed[..., :-1] / mixed[..., -1:].clamp(min=1e-9)
        return self.out(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def remember(self, x: Tensor, layout: Layout) -> Memory:
        raise NotImplementedError

    def keeps(self) -> Retention:
        return Retention(0, 0)

    def new_cache(self, slots: Slots) -> LayerCache:
        return State()


class LinearAttentionSpec(MixerSpec, kind="test_linear"):
    num_heads: int

    def build(self, *, d_model: int, layer: int, d_memory: int | None = None) -> nn.Module:
        return LinearAttention(d_model=d_model, num_heads=self.num_heads)

    def check(self, *, d_model: int, role: str) -> None:
        if role == "cross":
            raise FieldError("kind", "linear attention", "must be self-attention")


MIXED: dict[str, Any] = {
    "num_layers": 2,
    "blocks": {
        "linear": toys.block(attention={"kind": "test_linear", "num_heads": 3}),
        "softmax": toys.block(attention=toys.attention(rotary=toys.rotary(), mask=toys.WINDOW)),
    },
    "pattern": ["linear", "softmax"],
}


@pytest.fixture(autouse=True, params=["alone", "mixed"])
def _named(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = toys.decoder(toys.block(attention={"kind": "test_linear", "num_heads": 3}))
    monkeypatch.setitem(toys.ALL, "own", alone if request.param == "alone" else toys.decoder(stack=MIXED))


@pytest.mark.parametrize("cache", test_decoding.CACHES)
def test_it_decodes_like_any_other(cache: str) -> None:
    test_decoding.test_decode_equals_full_forward_for_every_chunk_size("own", cache)
    test_decoding.test_select_reorders_repeats_and_drops_rows("own", cache)
    test_decoding.test_a_saved_state_is_come_back_to_as_often_as_wanted("own", cache)
    for side in ("left", "right"):
        test_decoding.test_ragged_rows_decode_as_alone("own", cache, side)


def test_it_is_a_module_like_any_other() -> None:
    for side in ("left", "right"):
        test_padding_and_packing.test_a_padded_batch_gives_each_row_what_it_gets_alone("own", side)
    test_padding_and_packing.test_packed_texts_are_as_separate("own")
    test_ordinary_modules.test_meta_to_empty_and_load_loses_nothing("own")
    test_ordinary_modules.test_gradients_reach_every_parameter("own")
    test_ordinary_modules.test_recomputed_blocks_give_the_same_gradients("own")
    test_ordinary_modules.test_no_gradient_from_later_tokens("own")
    test_ordinary_modules.test_copies_and_pickles_give_the_same("own")


def test_its_state_does_not_grow() -> None:
    model = toys.build("own")
    state = model.begin(batch=2, cache="rolling")
    sizes = []
    with torch.no_grad():
        for i in range(9):
            model.step(toys.ids(2, 1, i), None, state)
            sizes.append(state.nbytes())
    assert sizes[4:] == [sizes[4]] * 5


def test_it_refuses_to_stand_where_it_cannot() -> None:
    tree = toys.pair(
        toys.block(attention={"num_heads": 4}),
        toys.block(attention=toys.attention(), cross={"kind": "test_linear", "num_heads": 3}),
    )
    with pytest.raises(SpecError, match="linear attention, must be self-attention"):
        read(ModelSpec, tree)
