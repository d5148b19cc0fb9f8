"""Recording: the weights of every attention, while the fast backend still computes the output."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch

import torch
from torch import Tensor

from attnlib.attention.backends.protocol import AttentionCall
from attnlib.attention.backends.reference import weights
from attnlib.attention.scope import standing_at_the_door
from attnlib.errors import UsageError
from attnlib.inspect.maps import AttentionMap


class Recording:
    """What was seen at the door: for each attention's path the weights of its calls, in their order."""

    def __init__(self, paths: str = "*") -> None:
        self.paths = paths
        self.weights: dict[str, list[Tensor]] = {}  # path -> [B, H, Q, K] each, fp32, on the CPU

    def __call__(self, path: str, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall, run: Callable[[], Tensor]) -> Tensor:
        out = run()  # the output is the fast backend's own, bit for bit
        if fnmatch(path, self.paths):
            with torch.no_grad():
                seen = weights(q.detach(), k.detach(), call).float().cpu()
            self.weights.setdefault(path, []).append(seen)
        return out

    def maps(
        self,
        tokens: Sequence[str],
        source_tokens: Sequence[str] | None = None,
        *,
        row: int = 0,
        columns: slice = slice(None),
    ) -> list[AttentionMap]:
        """The last call of each attention, of one row, with its tokens' names.

        `tokens` are those of the stack that writes (or the only one), `source_tokens` those of an encoder before it;
        `columns` cuts padding away.
        """
        if not self.weights:
            raise UsageError("record", "no attention was seen", f"run the model inside `record`, paths {self.paths!r}")
        maps = []
        for path, calls in self.weights.items():
            seen = calls[-1][row]
            stack, kind = path.split(".")[0], path.rpartition(".")[2]
            reads_source = source_tokens is not None
            queries = source_tokens if reads_source and stack == "encoder" else tokens
            keys = source_tokens if reads_source and (kind == "cross" or stack == "encoder") else tokens
            assert queries is not None and keys is not None
            maps.append(AttentionMap(path, seen[:, columns, columns].numpy(), list(queries), list(keys)))
        return maps


@contextmanager
def record(paths: str = "*") -> Iterator[Recording]:
    """Records attention weights of this thread while open: `with record("decoder.*.self") as seen: model(ids)`.

    Memory: O(H * Q * K) for each attention recorded. A path is the stack, the layer and self or cross.
    """
    recording = Recording(paths)
    with standing_at_the_door(recording):
        yield recording
