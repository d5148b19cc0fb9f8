"""The naive oracle: attention from its formulas over plain Python tokens, in fp64. Shares no code with the package.

A token is (position, segment, tag); None is a column without one. Masks and terms are stated again here, by kind, as
functions of two tokens. A kind of the package that is not stated here fails `test_registries`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attnlib.attention.biases import ScoreTerm
from attnlib.attention.masks import (
    Causal,
    Chunk,
    Everything,
    Explicit,
    First,
    Global,
    Mask,
    Prefix,
    SameSegment,
    Window,
)
from attnlib.attention.patterns import ByHead, Dilated, DilatedSegments, Fixed, Strided
from attnlib.attention.random_blocks import BigBird, RandomBlocks


class Token(NamedTuple):
    position: int
    segment: int = 0
    tag: int = 0
    head: int = 0  # of a query


Row = list[Token | None]
Sees = Callable[[Token, Token], bool]


class MaskCase(NamedTuple):
    mask: Mask
    sees: Sees


TABLE = ("#..#", ".##.", "###.")


def _explicit(q: Token, k: Token) -> bool:
    return q.position < 3 and k.position < 4 and TABLE[q.position][k.position] == "#"


def word(x: int) -> int:
    """The integer hash of the random blocks: xor with shifts, and two multiplications modulo 2^32."""
    for shift, factor in ((16, 2146121005), (15, 2221713035)):
        x = (x % 2**32 ^ x % 2**32 // 2**shift) * factor % 2**32
    return x ^ x // 2**16


def drawn(a: int, b: int, head: int, count: int, seed: int, layer: int) -> bool:
    """Did the later block draw the earlier: one of each of `count` stretches of those before it."""
    later, earlier = max(a, b), min(a, b)
    root = word(word(word(word(seed) + layer) + head) + later)
    for stretch in range(count):
        begin, end = later * stretch // count, later * (stretch + 1) // count
        if begin <= earlier < end:
            return earlier - begin == word(root + stretch) % (end - begin)
    return False


def _big_bird(q: Token, k: Token) -> bool:
    a, b = q.position // 2, k.position // 2
    return abs(a - b) <= 1 or min(a, b) < 1 or drawn(a, b, q.head, 1, 5, 3)


# kind -> examples of it, each with its meaning
MASKS: dict[str, list[MaskCase]] = {
    "everything": [MaskCase(Everything(), lambda q, k: True)],
    "causal": [MaskCase(Causal(), lambda q, k: k.position <= q.position)],
    "window": [
        MaskCase(Window(before=2), lambda q, k: q.position - k.position <= 2),
        MaskCase(Window(after=1), lambda q, k: k.position - q.position <= 1),
        MaskCase(Window(before=1, after=2), lambda q, k: -2 <= q.position - k.position <= 1),
    ],
    "chunk": [MaskCase(Chunk(size=3), lambda q, k: q.position // 3 == k.position // 3)],
    "first": [MaskCase(First(count=2), lambda q, k: k.position < 2)],
    "prefix": [MaskCase(Prefix(), lambda q, k: k.tag % 2 == 1)],
    "global": [MaskCase(Global(), lambda q, k: q.tag >= 2 or k.tag >= 2)],
    "same_segment": [MaskCase(SameSegment(), lambda q, k: True)],
    "explicit": [MaskCase(Explicit(rows=TABLE), _explicit)],
    "dilated": [
        MaskCase(Dilated(step=2, before=2, after=1), lambda q, k: q.position - k.position in (-2, 0, 2, 4)),
    ],
    "strided": [
        MaskCase(Strided(stride=3), lambda q, k: (d := q.position - k.position) % 3 == 0 or -3 <= d <= 3),
    ],
    "fixed": [
        MaskCase(Fixed(block=3, summary=1), lambda q, k: k.position % 3 == 2 or q.position // 3 == k.position // 3),
    ],
    "dilated_segments": [
        MaskCase(
            DilatedSegments(lengths=(2, 6), rates=(1, 3)),
            lambda q, k: (
                q.position // 2 == k.position // 2
                or (q.position // 6 == k.position // 6 and q.position % 3 == k.position % 3 == q.head % 3)
            ),
        ),
    ],
    "random_blocks": [
        MaskCase(
            RandomBlocks(block=1, count=2, seed=7),
            lambda q, k: drawn(q.position, k.position, q.head, 2, 7, 0),
        ),
    ],
    "big_bird": [MaskCase(BigBird(block=2, count=1, seed=5, layer=3), _big_bird)],
    "by_head": [
        MaskCase(
            ByHead(masks=(Causal(), Window(before=0, after=1), Causal() & First(count=1))),
            lambda q, k: (k.position <= q.position, 0 <= k.position - q.position <= 1, k.position < 1 <= q.position + 1)[
                q.head % 3
            ],
        ),
    ],
    "all": [
        MaskCase(Causal() & Window(before=2), lambda q, k: 0 <= q.position - k.position <= 2),
        MaskCase(Causal() & ~First(count=1), lambda q, k: 1 <= k.position <= q.position),
        MaskCase(Causal() & Chunk(size=4), lambda q, k: k.position <= q.position and q.position // 4 == k.position // 4),
    ],
    "any": [
        MaskCase(
            Causal() & (First(count=1) | Window(before=1)),
            lambda q, k: k.position <= q.position and (k.position < 1 or q.position - k.position <= 1),
        ),
        MaskCase(Prefix() | Causal(), lambda q, k: k.tag % 2 == 1 or k.position <= q.position),
        MaskCase(
            Global() | Window(before=1, after=1),
            lambda q, k: q.tag >= 2 or k.tag >= 2 or abs(q.position - k.position) <= 1,
        ),
    ],
    "not": [
        MaskCase(~Causal(), lambda q, k: k.position > q.position),
        MaskCase(~Window(before=1, after=1), lambda q, k: abs(q.position - k.position) > 1),
    ],
}


def visible(sees: Sees, q: list[Row], k: list[Row], heads: int = 1) -> Tensor:
    """[B, H, Q, K] bool, a cell at a time: a token sees its own segment only, and what is no token is not seen."""
    cells = [
        [
            [
                [a is not None and b is not None and a.segment == b.segment and sees(a._replace(head=h), b) for b in keys]
                for a in queries
            ]
            for h in range(heads)
        ]
        for queries, keys in zip(q, k)
    ]
    return torch.tensor(cells, dtype=torch.bool).view(len(q), heads, len(q[0]), len(k[0]))


def _distances(q: list[Row], k: list[Row]) -> list[list[list[int]]]:
    return [[[0 if a is None or b is None else b.position - a.position for b in ks] for a in qs] for qs, ks in zip(q, k)]


def alibi(term: ScoreTerm, queries: Tensor, keys: Tensor, q: list[Row], k: list[Row]) -> Tensor:
    """-(2^(-8 (h+1) / H)) |i - j| for a power of two of heads."""
    heads = queries.shape[1]
    slopes = torch.tensor([2.0 ** (-8.0 * (h + 1) / heads) for h in range(heads)], dtype=torch.float64)
    return -slopes[None, :, None, None] * torch.tensor(_distances(q, k), dtype=torch.float64).abs()[:, None]


def bucket(distance: int, buckets: int, furthest: int, both: bool) -> int:
    base = 0
    if both:
        buckets //= 2
        base = buckets if distance > 0 else 0
        distance = abs(distance)
    else:
        distance = max(-distance, 0)
    exact = buckets // 2
    if distance < exact:
        return base + distance
    far = exact + int(math.log(distance / exact) / math.log(furthest / exact) * (buckets - exact))
    return base + min(far, buckets - 1)


def t5(term: ScoreTerm, queries: Tensor, keys: Tensor, q: list[Row], k: list[Row]) -> Tensor:
    index = [[[bucket(d, 8, 11, True) for d in line] for line in row] for row in _distances(q, k)]
    table = term.table
    assert isinstance(table, Tensor)
    return table.double()[torch.tensor(index)].permute(0, 3, 1, 2)


def shaw(term: ScoreTerm, queries: Tensor, keys: Tensor, q: list[Row], k: list[Row]) -> Tensor:
    index = [[[max(-3, min(3, d)) + 3 for d in line] for line in row] for row in _distances(q, k)]
    table = term.table
    assert isinstance(table, Tensor)
    vectors = table.double()[torch.tensor(index)]  # [B, Q, K, D]
    return torch.einsum("bhqd,bqkd->bhqk", queries, vectors) / math.sqrt(queries.shape[-1])


def signed_bucket(distance: int, buckets: int, furthest: int) -> int:
    """He et al. 2021: a distance itself up to buckets / 2, its logarithm from there."""
    exact, size = buckets // 2, abs(distance)
    if size <= exact:
        return distance
    far = exact + math.ceil(math.log(size / exact) / math.log((furthest - 1) / exact) * (exact - 1))
    return far if distance > 0 else -far


def disentangled(term: ScoreTerm, queries: Tensor, keys: Tensor, q: list[Row], k: list[Row]) -> Tensor:
    """(q_i . K[d] + k_j . Q[d]) / sqrt(3 D): d is the bucket of i - j, K and Q project the normed table."""
    heads, width = queries.shape[1], queries.shape[3]
    named = dict(term.named_parameters())
    table = named["table.table"].double()
    table = (table - table.mean(-1, keepdim=True)) / torch.sqrt(table.var(-1, keepdim=True, unbiased=False) + 1e-5)
    table = table * named["table.norm.weight"] + named["table.norm.bias"]
    of_keys, of_queries = (table @ named[f"{name}.weight"].T + named[f"{name}.bias"] for name in "kq")
    index = [[[max(-4, min(3, signed_bucket(-d, 4, 9))) + 4 for d in line] for line in row] for row in _distances(q, k)]
    met_keys, met_queries = (x.unflatten(1, (heads, width))[torch.tensor(index)] for x in (of_keys, of_queries))
    own = torch.stack([keys[:, h * keys.shape[1] // heads] for h in range(heads)], 1)
    found = torch.einsum("bhid,bijhd->bhij", queries, met_keys) + torch.einsum("bijhd,bhjd->bhij", met_queries, own)
    return found / math.sqrt(3 * width)


def additive(term: ScoreTerm, queries: Tensor, keys: Tensor, q: list[Row], k: list[Row]) -> Tensor:
    """v tanh(W s + U h), its two projections being q and k."""
    heads, weight = queries.shape[1], dict(term.named_parameters())["weight"].double()
    own = torch.stack([keys[:, h * keys.shape[1] // heads] for h in range(heads)], 1)
    return torch.einsum("hd,bhijd->bhij", weight, torch.tanh(queries[:, :, :, None] + own[:, :, None]))


def transformer_xl(term: ScoreTerm, queries: Tensor, keys: Tensor, q: list[Row], k: list[Row]) -> Tensor:
    """(q W R + u k + v W R) / sqrt(D): R holds sin and cos of distances i - j, which end at 4."""
    heads, width = queries.shape[1], queries.shape[3]
    named = {name: p.double() for name, p in term.named_parameters()}
    rows = [
        [f(d / 10000 ** (2 * i / (heads * width))) for f in (math.sin, math.cos) for i in range(heads * width // 2)]
        for d in range(-4, 5)
    ]
    table = (torch.tensor(rows, dtype=torch.float64) @ named["r.weight"].T).unflatten(1, (heads, width))
    index = [[[max(-4, min(4, -d)) + 4 for d in line] for line in row] for row in _distances(q, k)]
    own = torch.stack([keys[:, h * keys.shape[1] // heads] for h in range(heads)], 1)
    found = torch.einsum("bhid,bijhd->bhij", queries + named["v"][:, None], table[torch.tensor(index)])
    return (found + torch.einsum("hd,bhjd->bhj", named["u"], own)[:, :, None]) / math.sqrt(width)


def block_routing(term: ScoreTerm, queries: Tensor, keys: Tensor, q: list[Row], k: list[Row]) -> Tensor:
    """0 in the query's own block of 2 and in the earlier one whose mean key has the greatest product with it, else -inf."""
    heads = queries.shape[1]
    queries, keys = queries.detach(), keys.detach()
    found = torch.full((*queries.shape[:3], keys.shape[2]), -torch.inf, dtype=torch.float64)
    for b, (asking, there) in enumerate(zip(q, k)):
        for h in range(heads):
            for i, one in enumerate(asking):
                blocks: dict[int, list[int]] = {}
                for j, other in enumerate(there):
                    if one is not None and other is not None and one.segment == other.segment:
                        blocks.setdefault(other.position // 2, []).append(j)
                met = {
                    number: float(queries[b, h, i] @ sum(keys[b, h * keys.shape[1] // heads, j] for j in at) / len(at))
                    for number, at in blocks.items()
                    if one is not None and number < one.position // 2
                }
                own = [] if one is None else blocks.get(one.position // 2, [])
                found[b, h, i, own + (blocks[max(met, key=lambda n: met[n])] if met else [])] = 0.0
    return found


def lsh(term: ScoreTerm, queries: Tensor, keys: Tensor, q: list[Row], k: list[Row]) -> Tensor:
    """0 at the query's own place and where the direction met best, of those drawn and their opposites, is one, else -inf."""
    heads, rounds = queries.shape[1], dict(term.named_buffers())["directions"].double()
    queries, keys = queries.detach(), keys.detach()

    def bucket(x: Tensor, drawn: Tensor) -> int:
        met = [float(x @ drawn[:, n]) for n in range(drawn.shape[1])]
        return max(range(2 * len(met)), key=lambda n: [*met, *(-one for one in met)][n])

    found = torch.full((*queries.shape[:3], keys.shape[2]), -torch.inf, dtype=torch.float64)
    for b, (asking, there) in enumerate(zip(q, k)):
        for h in range(heads):
            own = keys[b, h * keys.shape[1] // heads]
            theirs = [[bucket(key, drawn) for drawn in rounds] for key in own]
            for i, one in enumerate(asking):
                mine = [bucket(queries[b, h, i], drawn) for drawn in rounds]
                for j, other in enumerate(there):
                    here = one is not None and other is not None and one.position == other.position
                    if here or any(m == t for m, t in zip(mine, theirs[j])):
                        found[b, h, i, j] = 0.0
    return found


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    seen: Tensor,
    *,
    scale: float,
    softcap: float | None = None,
    sink: Tensor | None = None,
    added: Tensor | None = None,
    weigh: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """q [B, H, Q, D], k and v [B, G, K, *], seen [B, H|1, Q, K]: exp(s) / (exp(sink) + sum exp(s)), written out.

    `weigh` replaces that by another way from scores [B, H, Q, K] and what is seen [B, H|1, Q, K] to weights.
    """
    share = q.shape[1] // k.shape[1]
    k, v = (torch.stack([t[:, h // share] for h in range(q.shape[1])], 1).double() for t in (k, v))
    scores = torch.einsum("bhqd,bhkd->bhqk", q.double(), k) * scale
    if added is not None:
        scores = scores + added
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if weigh is not None:
        return torch.einsum("bhqk,bhkd->bhqd", weigh(scores, seen), v)
    powers = torch.exp(scores) * seen
    total = powers.sum(-1, keepdim=True)
    if sink is not None:
        total = total + torch.exp(sink.double())[None, :, None, None]
    weights = powers / torch.where(total == 0, 1.0, total)
    return torch.einsum("bhqk,bhkd->bhqd", weights, v)


def sigmoid(_: Any, scores: Tensor, seen: Tensor) -> Tensor:
    """1 / (1 + n e^-s), n the keys that the query sees."""
    return seen / (1 + seen.sum(-1, keepdim=True) * torch.exp(-scores))


def _threshold(z: Tensor, seen: Tensor, power: float) -> Tensor:
    """[.., Q, K] bool: which z are above the t of sum max(z - t, 0)^power = 1, t found by halving."""
    low, high = z.detach().masked_fill(~seen, -1e9).amax(-1, keepdim=True) - 1.0, None
    high = low + 1.0
    for _ in range(60):
        middle = (low + high) / 2
        much = ((z.detach() - middle).clamp(min=0) ** power * seen).sum(-1, keepdim=True) > 1
        low, high = torch.where(much, middle, low), torch.where(much, high, middle)
    return seen & (z.detach() > low)


def sparsemax(_: Any, scores: Tensor, seen: Tensor) -> Tensor:
    """Of the keys above the threshold t: s - t, with t = (sum s - 1) / n."""
    above = _threshold(scores, seen, 1.0)
    count = above.sum(-1, keepdim=True).clamp(min=1)
    return (scores - ((scores * above).sum(-1, keepdim=True) - 1) / count) * above


def entmax15(_: Any, scores: Tensor, seen: Tensor) -> Tensor:
    """Of the keys above the threshold t: (s / 2 - t)^2, with t the lesser root of the quadratic that makes the sum 1."""
    z = scores / 2
    above = _threshold(z, seen, 2.0)
    count = above.sum(-1, keepdim=True).clamp(min=1)
    a, b = ((z**power * above).sum(-1, keepdim=True) for power in (1, 2))
    root = (a * a - count * (b - 1)).clamp(min=0)
    return (z - (a - root.sqrt()) / count) ** 2 * above


def top_k(_: Any, scores: Tensor, seen: Tensor) -> Tensor:
    """A softmax over the keys that fewer than 2 seen keys outdo."""
    outdone = ((scores[..., None, :] > scores[..., :, None]) & seen[..., None, :]).sum(-1)
    powers = torch.exp(scores) * (seen & (outdone < 2))
    total = powers.sum(-1, keepdim=True)
    return powers / torch.where(total == 0, 1.0, total)


def talking_heads(normaliser: Any, scores: Tensor, seen: Tensor) -> Tensor:
    """Sums over heads before and after the softmax of each head."""

    def mixed(table: Tensor, x: Tensor) -> Tensor:
        return torch.stack([sum(table[g, f] * x[:, f] for f in range(x.shape[1])) for g in range(x.shape[1])], 1)

    powers = torch.exp(mixed(normaliser.scores, scores)) * seen
    total = powers.sum(-1, keepdim=True)
    return mixed(normaliser.weights, powers / torch.where(total == 0, 1.0, total)) * seen
