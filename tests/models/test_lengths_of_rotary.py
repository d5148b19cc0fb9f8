"""Rotary scalings that read a length read that of each text, whatever stands beside it."""

from __future__ import annotations

import pytest
import torch

import attnlib
from attnlib import Layout

SCALINGS = {
    "dynamic": {"kind": "dynamic", "factor": 2.0, "original_length": 4},
    "longrope": {
        "kind": "longrope",
        "short_factor": [1.0, 1.0],
        "long_factor": [1.0, 3.0],
        "original_length": 8,
        "factor": 4.0,
    },
}


@pytest.fixture(params=list(SCALINGS))
def model(request: pytest.FixtureRequest) -> attnlib.Decoder:
    attention = {"num_heads": 2, "mask": "causal", "rotary": {"scaling": SCALINGS[request.param]}}
    block = {"attention": attention, "mlp": {"kind": "dense", "d_ff": 9}}
    tree = {"kind": "decoder", "d_model": 8, "vocab_size": 13, "stack": {"num_layers": 2, "block": block}}
    built = attnlib.build({**tree, "init": {"kind": "fan_in"}})
    assert isinstance(built, attnlib.Decoder)
    return built.eval().double()


def test_a_row_beside_a_longer_one_equals_the_row_alone(model: attnlib.Decoder) -> None:
    long, short = torch.randint(0, 13, (1, 12)), torch.randint(0, 13, (1, 7))
    with torch.no_grad():
        alone = model(long).logits, model(short).logits
        rows = torch.cat([long, torch.nn.functional.pad(short, (5, 0))])
        padded = model(rows, Layout.from_lengths([12, 7], side="left")).logits
        packed = model(torch.cat([long, short], 1), Layout.packed([[12, 7]])).logits
    assert padded is not None and packed is not None
    torch.testing.assert_close(padded[0], alone[0][0])
    torch.testing.assert_close(padded[1, 5:], alone[1][0])
    torch.testing.assert_close(packed[:, :12], alone[0])
    torch.testing.assert_close(packed[:, 12:], alone[1])


def test_generation_of_a_row_is_fixed_by_its_own_final_length(model: attnlib.Decoder) -> None:
    prompts = [torch.randint(0, 13, (n,)).tolist() for n in (9, 3)]
    both = attnlib.generate(model, prompts, max_new_tokens=4, temperature=1.0, seed=1)
    alone = attnlib.generate(model, prompts[1:], max_new_tokens=4, temperature=1.0, seed=1)
    assert both[1].ids == alone[0].ids
    torch.testing.assert_close(torch.tensor(both[1].logprobs), torch.tensor(alone[0].logprobs))
