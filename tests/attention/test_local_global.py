"""Local attention with global tokens: the formula, a cache, texts without any, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from attnlib import Layout
from attnlib.attention.local_global import LocalGlobalSpec
from attnlib.attention.scope import Scope
from attnlib.attention.softmax import MixerSpec, SoftmaxAttention
from attnlib.errors import AttnlibError
from attnlib.inspect.recording import record
from attnlib.models.spec import ModelSpec
from attnlib.spec import read, write

REACH = 2
TREE = {
    "kind": "local_global",
    "num_heads": 4,
    "bias": True,
    "mask": {"kind": "any", "masks": [{"kind": "window", "before": REACH, "after": REACH}, "global"]},
}


def made(**more: Any) -> Any:
    torch.manual_seed(1)
    spec = read(MixerSpec, {**TREE, **more})
    assert isinstance(spec, LocalGlobalSpec) and read(MixerSpec, write(spec)) == spec
    return spec.build(d_model=12, layer=0).double()


def formula(mixer: Any, x: Tensor, tagged: list[bool], real: list[bool]) -> Tensor:
    """One text, a query at a time: global ones ask by q', k', v' all there is, others by q, k, v a window and the global."""
    heads, width = mixer.num_heads, mixer.d_head
    rows = []
    for i in range(len(x)):
        q, k, v = (mixer.global_q, mixer.global_k, mixer.global_v) if tagged[i] else (mixer.q, mixer.k, mixer.v)
        seen = [j for j in range(len(x)) if real[j] and (tagged[i] or tagged[j] or abs(i - j) <= REACH)]
        if not real[i]:
            rows.append(torch.zeros(heads * width, dtype=x.dtype))
            continue
        mine = q(x[i]).view(heads, width)
        theirs, values = (project(x[seen]).view(-1, heads, width) for project in (k, v))
        weights = (torch.einsum("hd,khd->hk", mine, theirs) / width**0.5).softmax(1)
        rows.append(torch.einsum("hk,khd->hd", weights, values).flatten())
    out: Tensor = mixer.out(torch.stack(rows))
    return out


def test_it_is_the_formula_with_other_tokens_global_in_each_row() -> None:
    mixer, x = made(), torch.randn(3, 9, 12, dtype=torch.float64)
    marks = torch.zeros(3, 9, dtype=torch.bool)
    marks[0, [0, 5]], marks[2, 3] = True, True
    layout = Layout.from_lengths([9, 4, 7], 9).tagged(global_tokens=marks)
    out = mixer(x, layout)
    for row, length in enumerate((9, 4, 7)):
        wanted = formula(mixer, x[row], marks[row].tolist(), [i < length for i in range(9)])
        torch.testing.assert_close(out[row, :length], wanted[:length], atol=1e-9, rtol=0)
    names = [name for name, grad in zip(dict(mixer.named_parameters()), torch.autograd.grad(
        out.square().sum(), list(mixer.parameters()), allow_unused=True)) if grad is None]  # fmt: skip
    assert not names


def test_first_tokens_are_global_where_nothing_is_tagged() -> None:
    x = torch.randn(2, 8, 12, dtype=torch.float64)
    marks = torch.zeros(2, 8, dtype=torch.bool)
    marks[:, 0] = True
    first, plain = made(first=1), made()
    torch.testing.assert_close(first(x), plain(x, Layout.dense(2, 8).tagged(global_tokens=marks)))
    assert not torch.allclose(first(x), plain(x))


def test_without_global_tokens_it_is_a_window() -> None:
    mixer, x = made(), torch.randn(2, 8, 12, dtype=torch.float64)
    parts = {"d_model": 12, "num_heads": 4, "num_kv_heads": 4, "d_head": 3, "bias": ("q", "k", "v", "out")}
    window = SoftmaxAttention(**parts, rule=mixer.rule, mask=mixer.mask.masks[0]).double()
    window.load_state_dict({n: p for n, p in mixer.state_dict().items() if "global" not in n})
    none = Layout.dense(2, 8).tagged(global_tokens=torch.zeros(2, 8))
    for layout in (None, none):
        torch.testing.assert_close(mixer(x, layout), window(x))


def test_a_causal_model_decodes_with_a_cache_what_it_says_at_once() -> None:
    torch.manual_seed(0)
    attention = {**TREE, "mask": ["causal", TREE["mask"]], "num_kv_heads": 2, "rotary": {"base": 50.0}}
    stack = {"num_layers": 2, "block": {"attention": attention}}
    tree = {"kind": "decoder", "d_model": 16, "vocab_size": 11, "stack": stack}
    model: Any = read(ModelSpec, tree).build().eval()
    ids = torch.randint(11, (2, 11))
    marks = torch.zeros(2, 11, dtype=torch.bool)
    marks[0, 1], marks[1, 4], marks[1, 9] = True, True, True
    whole = model(ids, Layout.dense(2, 11).tagged(global_tokens=marks)).logits
    assert not torch.allclose(whole, model(ids).logits, atol=1e-3)
    for chunk in (1, 3, 11):
        state, parts = model.begin(batch=2), []
        for at in range(0, 11, chunk):
            part = ids[:, at : at + chunk]
            layout = Layout.dense(2, part.shape[1], start=at).tagged(global_tokens=marks[:, at : at + chunk])
            parts.append(model.step(part, layout, state, at=slice(None)))
        torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=0)


def test_weights_that_are_recorded_make_the_output() -> None:
    mixer, x = made(), torch.randn(2, 9, 12, dtype=torch.float64)
    marks = torch.zeros(2, 9, dtype=torch.bool)
    marks[0, 2] = marks[0, 6] = True
    layout = Layout.from_lengths([9, 5], 9).tagged(global_tokens=marks)
    whole = mixer.implied_weights(x, layout, Scope())
    torch.testing.assert_close(mixer.implied_weights(x, layout, Scope(), rows=slice(1, 4)), whole[:, :, 1:4])
    own, other = (project(x).unflatten(2, (4, 3)).transpose(1, 2) for project in (mixer.v, mixer.global_v))
    mixed = torch.where(marks[:, None, :, None], whole @ other, whole @ own)
    torch.testing.assert_close(mixer.out(mixed.transpose(1, 2).flatten(2)), mixer(x, layout))
    block = {"attention": {**TREE, "first": 1}}
    tree = {"kind": "encoder", "d_model": 12, "vocab_size": 9, "stack": {"num_layers": 2, "block": block}}
    model: Any = read(ModelSpec, tree).build().eval()
    with record(model) as seen:
        model(torch.randint(9, (1, 7)))
    shown = seen["encoder.1.self"].dense()
    assert shown.shape == (4, 7, 7) and bool((shown[:, 0] > 0).all()) and not shown[:, 3, 6].any()
    torch.testing.assert_close(shown.sum(-1), torch.ones(4, 7))


def test_what_it_cannot_do_is_refused_with_a_reason() -> None:
    self_attention = {"num_heads": 4}
    stack = {"num_layers": 1, "block": {"attention": self_attention, "cross": TREE}}
    tree = {"kind": "encoder_decoder", "d_model": 12, "vocab_size": 9, "encoder": {"num_layers": 1, "block": {
        "attention": self_attention}}, "decoder": stack}  # fmt: skip
    with pytest.raises(AttnlibError, match="cross-attention"):
        read(ModelSpec, tree)
    decoder = {"kind": "decoder", "d_model": 12, "vocab_size": 9, "stack": {"num_layers": 1, "block": {
        "attention": {**TREE, "first": 1}}}}  # fmt: skip
    with pytest.raises(AttnlibError, match=r"block\.attention\.first: 1 in a decoder, a cache wants global tokens tagged"):
        read(ModelSpec, decoder)
