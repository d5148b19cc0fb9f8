"""Random, window and global blocks: a pattern drawn by a hash, the same wherever it is asked for."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from attnlib.attention.masks import Mask, Reach, Span
from attnlib.layout import Coordinates

_WORD = 0xFFFFFFFF


def mixed(x: Any) -> Any:
    """A 32-bit integer hash of ints or int64 tensors: each bit of the input turns about half of the output's bits."""
    x = x & _WORD
    x = (x ^ (x >> 16)) * 0x7FEB352D & _WORD
    x = (x ^ (x >> 15)) * 0x846CA68B & _WORD
    return x ^ (x >> 16)


class RandomBlocks(Mask, kind="random_blocks"):
    """Of two blocks of `block` tokens the later one draws the earlier: each draws `count` of those before it.

    One from each of `count` equal stretches of the earlier blocks, by a hash of (seed, layer, head, block, stretch): what is
    drawn does not depend on what comes later, so training, evaluation and a cache see the same. A pair of blocks sees both
    ways. layer: null = that of the layer it stands in. After Zaheer et al. 2020, arXiv:2007.14062, where a generator draws.
    """

    approximates: ClassVar[bool] = True
    block: int = Field(default=64, ge=1)
    count: int = Field(default=3, ge=1)
    seed: int = Field(default=0, ge=0)
    layer: int | None = Field(default=None, ge=0)

    def positional(self) -> bool:
        return True

    def in_layer(self, layer: int) -> Mask:
        return self if self.layer is not None else self.replace(layer=layer)

    def drawn(self, own: Tensor, theirs: Tensor, head: Tensor) -> Tensor:
        """Bool, broadcast from numbers of blocks and heads: did the later of two blocks draw the earlier?"""
        later, earlier = torch.maximum(own, theirs), torch.minimum(own, theirs)
        root = mixed(mixed(mixed(self.seed) + (self.layer or 0)) + head)
        root = mixed(root + later)
        found = (later < 0) & (head < 0)
        for stretch in range(self.count):
            begin, end = later * stretch // self.count, later * (stretch + 1) // self.count
            pick = begin + mixed(root + stretch) % (end - begin).clamp(min=1)
            found = found | ((earlier == pick) & (pick < end))
        return found

    def visible(self, q: Coordinates, k: Coordinates) -> Tensor:
        return self.drawn(q.position // self.block, k.position // self.block, q.head)

    def reach(self, q: Span, k: Span) -> Reach:
        if not isinstance(q.first, Tensor) or q.head is None:
            return Reach(True, False)
        one = (q.first // self.block == q.last // self.block) & (k.first // self.block == k.last // self.block)
        seen = self.drawn(q.first // self.block, k.first // self.block, q.head)
        return Reach(seen | ~one, seen & one)


class BigBird(RandomBlocks, kind="big_bird"):
    """BigBird's blocks: `count` random ones, `window` to each side, and the first `global_blocks`, which see and are seen.

    Random ones are drawn as `random_blocks` does. Zaheer et al. 2020, arXiv:2007.14062.
    """

    window: int = Field(default=1, ge=0)
    global_blocks: int = Field(default=1, ge=0)

    def drawn(self, own: Tensor, theirs: Tensor, head: Tensor) -> Tensor:
        near = (own - theirs).abs() <= self.window
        return super().drawn(own, theirs, head) | near | (torch.minimum(own, theirs) < self.global_blocks)
