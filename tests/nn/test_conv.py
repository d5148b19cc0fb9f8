"""Convolutions over tokens: neighbours of the same text only, in batches, padded and packed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from attnlib.errors import SpecError
from attnlib.layout import Layout
from attnlib.models.spec import ModelSpec
from attnlib.nn.conv import ConvBranch, ConvSpec, TokenConv
from attnlib.spec import read


def conv(kernel: int, groups: int = 1) -> TokenConv:
    torch.manual_seed(0)
    made = TokenConv(6, kernel=kernel, groups=groups).double()
    nn.init.normal_(made.weight)
    nn.init.normal_(made.bias)
    return made


def naive(made: TokenConv, text: Tensor) -> Tensor:
    """[T, M] of one text, a token and an output channel at a time."""
    width, share, kernel = made.weight.shape
    rows = []
    for t in range(len(text)):
        row = []
        for channel in range(width):
            first = channel // (width // made.groups) * share
            total = made.bias[channel]
            for o in range(kernel):
                at = t + o - kernel // 2
                if 0 <= at < len(text):
                    total = total + made.weight[channel, :, o] @ text[at, first : first + share]
            row.append(total)
        rows.append(torch.stack(row))
    return torch.stack(rows)


@pytest.mark.parametrize(("kernel", "groups"), [(1, 1), (3, 1), (3, 2), (5, 3)])
def test_every_text_is_convolved_alone(kernel: int, groups: int) -> None:
    made = conv(kernel, groups)
    texts = [torch.randn(n, 6, dtype=torch.float64) for n in (4, 1, 6)]
    wanted = [naive(made, text) for text in texts]
    assert torch.allclose(made(texts[0][None], Layout.dense(1, 4))[0], wanted[0])
    noise = torch.randn(2, 9, 6, dtype=torch.float64)  # what stands at pads is not read
    packed = noise.clone()
    packed[0, :5], packed[1, :6] = torch.cat(texts[:2]), texts[2]
    found = made(packed, Layout.packed([[4, 1], [6]], 9))
    assert torch.allclose(found[0, :5], torch.cat(wanted[:2])) and torch.allclose(found[1, :6], wanted[2])
    for side in ("left", "right"):
        padded = noise[:, :7].clone()
        places = [slice(7 - n, 7) if side == "left" else slice(0, n) for n in (4, 6)]
        padded[0, places[0]], padded[1, places[1]] = texts[0], texts[2]
        found = made(padded, Layout.from_lengths([4, 6], 7, side=side))
        assert torch.allclose(found[0, places[0]], wanted[0]) and torch.allclose(found[1, places[1]], wanted[2])


def test_gradients_are_right_and_none_reaches_a_pad() -> None:
    made, layout = conv(3), Layout.from_lengths([2, 4], 4)
    x = torch.randn(2, 4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: made(x, layout), x)
    (grad,) = torch.autograd.grad(made(x, layout)[0, :2].sum(), x)
    assert grad[0, :2].any() and not grad[0, 2:].any() and not grad[1].any()


def test_a_branch_is_normed_with_the_output_of_its_block() -> None:
    made: ConvBranch = ConvSpec(kernel=3, activation="relu").build(6).double()
    x, y = torch.randn(2, 1, 5, 6, dtype=torch.float64)
    layout = Layout.dense(1, 5)
    wanted = nn.functional.layer_norm(y + made.conv(x, layout).relu(), (6,))
    assert torch.allclose(made(x, y, layout), wanted)


@pytest.mark.parametrize(
    ("kind", "conv", "words"),
    [
        ("encoder", {"kernel": 4}, "stack.block.conv.kernel"),
        ("encoder", {"groups": 5}, "stack.block.conv.groups: 5, must divide d_model"),
        ("decoder", {}, "stack.block.conv: in a decoder, it reads tokens to come"),
    ],
)
def test_what_cannot_be_is_refused(kind: str, conv: dict[str, int], words: str) -> None:
    block = {"attention": {"num_heads": 2}, "conv": conv}
    with pytest.raises(SpecError, match=words.replace("(", r"\(")):
        read(ModelSpec, {"kind": kind, "d_model": 6, "vocab_size": 7, "stack": {"num_layers": 1, "block": block}})
