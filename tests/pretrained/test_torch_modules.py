"""torch's own attention modules and ours with their weights: equal outputs, gradients and refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnlib import AttnlibError, Causal, Layout, from_torch
from attnlib.models.stack import Stack

WIDTH, HEADS, HIDDEN = 12, 3, 20
pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor:UserWarning")


def drawn(module: nn.Module) -> Any:
    """Every weight random, norms and biases too; no dropout is in play."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.3)
    return module.eval()


def given(x: Tensor, module: Any) -> Tensor:
    """x [B, T, M] as the module takes it, or back."""
    first = getattr(module, "batch_first", None)
    if first is None:
        first = module.layers[0].self_attn.batch_first if hasattr(module, "layers") else module.self_attn.batch_first
    return x if first else x.transpose(0, 1)


def same(ours: Tensor, theirs: Tensor, parameters: dict[str, tuple[Any, Any]]) -> None:
    """Equal outputs, and equal gradients of one loss for each named pair."""
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=2e-5)
    weight = torch.randn(ours.shape)
    for name, (mine, its) in parameters.items():
        a, b = torch.autograd.grad((ours * weight).sum(), mine, retain_graph=True)[0], torch.autograd.grad(
            (theirs * weight).sum(), its, retain_graph=True)[0]  # fmt: skip
        torch.testing.assert_close(a, b[: len(a)], atol=1e-4, rtol=1e-4, msg=name)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_multihead_attention_to_itself_and_to_another_source(batch_first: bool, bias: bool) -> None:
    theirs = drawn(nn.MultiheadAttention(WIDTH, HEADS, bias=bias, batch_first=batch_first))
    ours = from_torch(theirs)
    x, y = torch.randn(2, 5, WIDTH), torch.randn(2, 7, WIDTH)
    out = given(theirs(*[given(x, theirs)] * 3, need_weights=False)[0], theirs)
    same(ours(x), out, {"q": (ours.q.weight, theirs.in_proj_weight), "out": (ours.out.weight, theirs.out_proj.weight)})
    crossed = theirs(given(x, theirs), *[given(y, theirs)] * 2, need_weights=False)[0]
    same(ours(x, memory=ours.remember(y, Layout.dense(2, 7))), given(crossed, theirs), {})


def test_attention_to_a_source_of_another_width() -> None:
    theirs = drawn(nn.MultiheadAttention(WIDTH, HEADS, kdim=8, vdim=8, batch_first=True))
    ours = from_torch(theirs)
    x, y = torch.randn(2, 5, WIDTH), torch.randn(2, 7, 8)
    out = theirs(x, y, y, need_weights=False)[0]
    same(ours(x, memory=ours.remember(y, Layout.dense(2, 7))), out, {"k": (ours.k.weight, theirs.k_proj_weight)})


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize(
    ("batch_first", "bias", "activation"),
    [(True, True, F.relu), (False, True, F.gelu), (True, False, nn.GELU("tanh")), (True, True, nn.SiLU())],
)
def test_encoders(norm_first: bool, batch_first: bool, bias: bool, activation: Any) -> None:
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, activation=activation, norm_first=norm_first, bias=bias,
                                       batch_first=batch_first, layer_norm_eps=1e-3)  # fmt: skip
    theirs = drawn(nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(WIDTH) if norm_first else None))
    ours = from_torch(theirs)
    x, lengths = torch.randn(2, 6, WIDTH), [6, 4]
    pads = torch.arange(6) >= torch.tensor(lengths)[:, None]
    out = given(theirs(given(x, theirs), src_key_padding_mask=pads), theirs)
    found = ours(x, Layout.from_lengths(lengths)).last
    mine = ours.blocks[1].mlp.body.up.weight
    same(found[~pads], out[~pads], {"up": (mine, theirs.layers[1].linear1.weight)})
    causal = from_torch(theirs.layers[0], mask=Causal())
    seen = nn.Transformer.generate_square_subsequent_mask(6)
    wished = given(theirs.layers[0](given(x, theirs), src_mask=seen, is_causal=True), theirs)
    same(causal(x, Layout.dense(2, 6))[0], wished, {})


@pytest.mark.parametrize("norm_first", [True, False])
def test_decoders_read_a_memory(norm_first: bool) -> None:
    layer = nn.TransformerDecoderLayer(WIDTH, HEADS, HIDDEN, norm_first=norm_first, batch_first=True)
    theirs = drawn(nn.TransformerDecoder(layer, 2, norm=nn.LayerNorm(WIDTH)))
    ours = from_torch(theirs, mask=Causal())
    assert isinstance(ours, Stack)
    x, memory = torch.randn(2, 5, WIDTH), torch.randn(2, 7, WIDTH)
    out = theirs(x, memory, tgt_mask=nn.Transformer.generate_square_subsequent_mask(5), tgt_is_causal=True)
    kept = ours.remember(memory, Layout.dense(2, 7))
    found = ours(x, Layout.dense(2, 5), memory=kept).last
    same(found, out, {"cross": (ours.blocks[0].cross.body.out.weight, theirs.layers[0].multihead_attn.out_proj.weight)})
    one = from_torch(theirs.layers[1])
    same(one(x, Layout.dense(2, 5), memory=one.remember(memory, Layout.dense(2, 7)))[0], theirs.layers[1](x, memory), {})


@pytest.mark.parametrize("norm_first", [True, False])
def test_the_whole_transformer(norm_first: bool) -> None:
    theirs = drawn(nn.Transformer(WIDTH, HEADS, 2, 1, HIDDEN, norm_first=norm_first, batch_first=True, activation="gelu"))
    ours = from_torch(theirs, mask=Causal())
    source, target = torch.randn(2, 6, WIDTH), torch.randn(2, 4, WIDTH)
    pads = torch.arange(6) >= torch.tensor([6, 3])[:, None]
    seen = nn.Transformer.generate_square_subsequent_mask(4)
    out = theirs(source, target, tgt_mask=seen, src_key_padding_mask=pads, memory_key_padding_mask=pads)
    found = ours(source, target, Layout.from_lengths([6, 3]))
    pair = ours.encoder.blocks[0].attention.body.q.weight, theirs.encoder.layers[0].self_attn.in_proj_weight
    same(found, out, {"q": pair})
    plain = from_torch(theirs)
    torch.testing.assert_close(plain(source, target), theirs(source, target), atol=2e-5, rtol=2e-5)


def test_weights_are_copies_and_mode_dtype_and_dropout_are_kept() -> None:
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, dropout=0.3, dtype=torch.float64)
    layer.dropout2.p = 0.2
    ours = from_torch(layer)
    assert ours.training and not from_torch(layer.eval()).training
    before = ours.blocks[0].mlp.body.up.weight.clone()
    with torch.no_grad():
        layer.linear1.weight.zero_()
    assert torch.equal(ours.blocks[0].mlp.body.up.weight, before) and before.dtype == torch.float64
    block = ours.blocks[0]
    assert (block.attention.dropout, block.mlp.dropout) == (0.3, 0.2)
    assert (block.attention.body.dropout, block.mlp.body.dropout) == (0.3, 0.3)


def test_layers_may_differ() -> None:
    theirs = drawn(nn.TransformerEncoder(nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, batch_first=True), 2))
    theirs.layers[1].activation = F.gelu
    theirs.layers[1].activation_relu_or_gelu = 2
    x = torch.randn(2, 5, WIDTH)
    torch.testing.assert_close(from_torch(theirs)(x, Layout.dense(2, 5))[0], theirs(x), atol=2e-5, rtol=2e-5)


class Own(nn.MultiheadAttention):
    pass


def changed(**values: Any) -> nn.Module:
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN)
    for name, value in values.items():
        setattr(layer, name, value)
    return layer


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (nn.Linear(2, 2), "from_torch: is given a Linear, wish one of nn.MultiheadAttention, nn.Transformer"),
        (Own(WIDTH, HEADS), "is given a Own"),
        (nn.MultiheadAttention(WIDTH, HEADS, add_bias_kv=True), "module.add_bias_kv: is true, wish false"),
        (nn.MultiheadAttention(WIDTH, HEADS, add_zero_attn=True), "module.add_zero_attn: is true"),
        (nn.MultiheadAttention(WIDTH, HEADS, kdim=8, vdim=9), "module.kdim: is 8 beside vdim 9"),
        (changed(activation=torch.sin), "module.layers.0.activation: is sin, wish one of relu, gelu, silu, tanh, gelu_tanh"),
        (changed(norm2=nn.RMSNorm(WIDTH)), "module.layers.0.norm1: is RMSNorm, wish nn.LayerNorm over the width"),
        (changed(norm2=nn.LayerNorm(WIDTH, eps=1.0)), "wish the norms of a layer alike"),
        (changed(self_attn=Own(WIDTH, HEADS)), "module.layers.0.self_attn: is Own"),
    ],
)
def test_what_ours_does_not_compute_is_refused(module: nn.Module, said: str) -> None:
    with pytest.raises(AttnlibError) as error:
        from_torch(module)
    assert said in str(error.value)
