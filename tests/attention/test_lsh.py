"""Locality-sensitive hashing: what falls into one bucket is near, and more rounds find more of it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

from attnlib.attention.lsh import HashBuckets
from attnlib.attention.softmax import MixerSpec
from attnlib.layout import Layout
from attnlib.spec import SpecError, read

D = 16


def mixer(cross: bool = False, **term: Any) -> Any:
    torch.manual_seed(0)
    tree = (
        {"num_heads": 2, "mask": "everything", "term": {"kind": "lsh"} | term}
        if term
        else {"num_heads": 2, "mask": "everything"}
    )
    return read(MixerSpec, tree).build(d_model=2 * D, layer=0, d_memory=2 * D if cross else None).double().eval()


def together(angle: float, *, buckets: int) -> float:
    """Share of 400 draws that put two vectors of this angle into one bucket."""
    torch.manual_seed(0)
    a, b = torch.linalg.qr(torch.randn(D, 2, dtype=torch.float64))[0].T
    pair = torch.stack([a, torch.cos(torch.tensor(angle)) * a + torch.sin(torch.tensor(angle)) * b])[None, None]
    found = HashBuckets(d_head=D, buckets=buckets, rounds=400, seed=1).tensors(pair, 3.0 * pair)
    return float((found[0][0, 0, 0] == found[1][0, 0, 1]).double().mean())


def test_vectors_of_a_small_angle_share_a_bucket_more_often_whatever_their_lengths() -> None:
    shares = [together(angle, buckets=8) for angle in (0.0, 0.4, 0.9, 1.57)]
    assert shares[0] == 1.0 and all(a > b + 0.1 for a, b in pairwise(shares))
    assert shares[-1] == pytest.approx(1 / 8, abs=0.05)  # of independent vectors one in as many as there are buckets
    assert together(3.1416, buckets=8) == 0.0


def test_two_buckets_share_as_often_as_a_random_plane_leaves_an_angle_whole() -> None:
    for angle in (0.5, 1.0, 2.0):  # 1 - angle / pi (Goemans and Williamson 1995)
        assert together(angle, buckets=2) == pytest.approx(1 - angle / torch.pi, abs=0.06)


@torch.no_grad()
def test_the_error_against_softmax_falls_with_rounds_to_nothing() -> None:
    x, plain = torch.randn(2, 24, 2 * D, dtype=torch.float64), mixer()
    errors = []
    for rounds in (1, 4, 16, 64):
        hashed = mixer(buckets=4, rounds=rounds)
        hashed.load_state_dict(plain.state_dict(), strict=False)
        errors.append(float((hashed(x) - plain(x)).norm() / plain(x).norm()))
    assert errors == sorted(errors, reverse=True) and errors[0] > 0.1 and errors[-1] < 1e-2 * errors[0]


@torch.no_grad()
def test_a_query_sees_its_own_place_but_of_a_source_only_its_buckets() -> None:
    x = torch.randn(1, 6, 2 * D, dtype=torch.float64)
    hashed = mixer(buckets=4096, rounds=1)
    alone = hashed.out(hashed.v(x))
    found = hashed(x)
    assert sum(torch.allclose(found[0, t], alone[0, t]) for t in range(6)) >= 4  # among so many buckets most are alone
    crossed = mixer(cross=True, buckets=4096, rounds=1)
    told = crossed(x, memory=crossed.remember(torch.randn(1, 6, 2 * D, dtype=torch.float64), Layout.dense(1, 6)))
    assert sum(bool((told[0, t] == 0).all()) for t in range(6)) >= 4


def test_directions_are_kept_with_the_weights() -> None:
    kept = mixer(buckets=4, rounds=2, seed=1).state_dict()
    name = next(name for name in kept if name.endswith("directions"))
    other = mixer(buckets=4, rounds=2, seed=2)
    assert not torch.equal(other.state_dict()[name], kept[name])
    other.load_state_dict(kept)
    assert torch.equal(other.state_dict()[name], kept[name])


@pytest.mark.parametrize("buckets", [0, 3])
def test_buckets_come_in_pairs(buckets: int) -> None:
    with pytest.raises(SpecError, match=r"term\.buckets"):
        mixer(buckets=buckets)
