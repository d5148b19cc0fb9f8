"""What a forward costs, found without running it: FLOPs of matrix products and bytes that live at once, on the meta device.

Every operation of the model passes as it would, with shapes and no values. Attention runs the backend that a real device
would choose; kernels of torch that hide their work are taken apart into the products they are made of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from attnlib.attention.backends.reference import mix, products
from attnlib.attention.scope import Door, standing_at_the_door
from attnlib.errors import UsageError
from attnlib.inspect.on_meta import OnMeta
from attnlib.inspect.tally import Tally
from attnlib.nn.meta import on_meta


class Counting:
    """Counts what a model on the meta device does while open, as if its attention ran on `device`.

    given: inputs, which count as weights do. backends: path of an attention -> the backend chosen; door: stands there
    instead and chooses none. Raises UsageError at an operation that has no count, or where a module reads values.
    """

    def __init__(
        self,
        model: nn.Module,
        *given: Tensor,
        device: torch.device | str = "cpu",
        backend: str = "auto",
        door: Door | None = None,
    ) -> None:
        self._live = Tally((*model.parameters(), *model.buffers(), *given))
        self._model = model
        self.backends: dict[str, str] = {}
        self._door = door or OnMeta(self._live, torch.device(device), backend, self.backends)

    def __enter__(self) -> Counting:
        self._open = ExitStack()
        for context in (on_meta(), torch.no_grad(), self._live.modules, self._live, _Kernels(self._live),
                        standing_at_the_door(self._door)):  # fmt: skip
            self._open.enter_context(context)
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._open.__exit__(kind, error, trace)
        if isinstance(error, RuntimeError | NotImplementedError) and " meta " in f"{error} ":
            raise UsageError(type(self._model).__name__, "a part of it chooses its work by values that it reads",
                             "has no count before it runs") from error  # fmt: skip

    @property
    def flops(self) -> int:
        """Multiply and add count as two; of matrix products, convolutions and triangular systems."""
        return self._live.flops["Global"]

    def by_module(self) -> Mapping[str, int]:
        """FLOPs by the path of a module, "" the whole."""
        top = type(self._model).__name__
        return {name.removeprefix(top).lstrip("."): n for name, n in self._live.flops.items() if name != "Global"}

    @property
    def peak(self) -> int:
        """Most bytes alive at once beyond weights and what is `given`."""
        return self._live.peak

    @contextmanager
    def peaks_of(self, modules: list[nn.Module]) -> Iterator[list[int]]:
        """While open, the most bytes that each call of these modules had beyond what lived before it."""
        found: list[int] = []
        before: list[tuple[int, int]] = []
        live = self._live

        def begin(*_: Any) -> None:
            before.append((live.now, live.peak))
            live.peak = live.now

        def end(*_: Any) -> None:
            now, peak = before.pop()
            found.append(live.peak - now)
            live.peak = max(live.peak, peak)

        with ExitStack() as hooks:
            for module in modules:
                hooks.callback(module.register_forward_pre_hook(begin).remove)
                hooks.callback(module.register_forward_hook(end).remove)
            yield found


class _Kernels(TorchFunctionMode):
    """Kernels that torch has for a device, as the products they compute and the memory they take."""

    def __init__(self, live: Tally) -> None:
        super().__init__()
        self.live = live

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if func is F.scaled_dot_product_attention and args[0].is_meta:
            return self._attention(*args, **given)
        if func in (torch.gru, torch.lstm) and args[0].is_meta:
            return self._recurrence(*args, **given)
        return func(*args, **given)

    def _attention(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *_: Any, **given: Any) -> Tensor:
        """torch's fused kernel on a CPU: blocks of scores for each thread, a log of sums for each query."""
        mask = given.get("attn_mask", mask)
        with self.live.aside():
            mix(products(q, k, 1.0), v)
        rows, columns = (256 if q.shape[2] >= 768 else 64 if q.shape[2] >= 192 else 32), min(512, k.shape[2])
        space = torch.get_num_threads() * (rows * columns + 2 * rows + rows * v.shape[3])
        work = [q.new_empty(*q.shape[:3], dtype=torch.float32), q.new_empty(space, dtype=torch.float32)]
        if mask is not None and mask.dtype == torch.bool:
            work.append(q.new_empty(mask.shape))
        return q.new_empty(*q.shape[:3], v.shape[3])

    def _recurrence(self, x: Tensor, state: Any, weights: list[Tensor], *_: Any) -> tuple[Tensor, ...]:
        """Gates of the input at once, those of the state token by token, whose outputs are joined at the end."""
        width = weights[1].shape[1]
        gates = F.linear(x, weights[0])  # noqa: F841  (alive until the end)
        y = x.new_empty(*x.shape[:2], width)
        with self.live.aside():
            F.linear(y, weights[1])
        joined = torch.empty_like(y)
        states = [state] if isinstance(state, Tensor) else state
        return (joined, *(torch.empty_like(t) for t in states))
