"""What a forward costs, found without running it: FLOPs of matrix products and bytes that live at once, on the meta device.

Every operation of the model passes as it would, with shapes and no values. Attention runs the backend that a real device
would choose; kernels of torch that hide their work are taken apart into the products they are made of.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from torch.utils.module_tracker import ModuleTracker
from torch.utils.weak import WeakIdKeyDictionary

from attnlib.attention.backends.choose import choose
from attnlib.attention.backends.chunked import Chunked, RowBlocks
from attnlib.attention.backends.protocol import AttentionCall
from attnlib.attention.backends.reference import mix, products
from attnlib.attention.scope import Door, standing_at_the_door
from attnlib.attention.tiling import columns_by_rows
from attnlib.attention.visibility import Columns, Visibility
from attnlib.errors import UsageError
from attnlib.layout import Layout
from attnlib.nn.meta import on_meta


def _triangular(a: Tensor, b: Tensor, *_: object, **__: object) -> int:
    """A system [.., n, n] solved for [.., n, m] by substitution: n (n - 1) m."""
    return b.numel() * (a.shape[-1] - 1)


def _dot(a: Tensor, *_: object, **__: object) -> int:
    return 2 * a.numel()


# operation -> FLOPs of its arguments, where torch's own counter has none; may be added to
FORMULAS: dict[Any, Callable[..., int]] = {
    torch.ops.aten.linalg_solve_triangular: _triangular,
    torch.ops.aten.mv: _dot,
    torch.ops.aten.dot: _dot,
}
_WORK = ("linalg_", "_linalg_", "_fft", "cdist", "_cdist", "cholesky", "lu_", "triangular_solve", "addmv", "addr", "ger",
         "_scaled_dot", "_flash", "_efficient", "_thnn", "mkldnn_", "mkldnn_rnn", "_int_mm", "segment_mm", "_grouped_mm",
         "addbmm", "vdot")  # fmt: skip
_LIGHT = ("linalg_vector_norm",)


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
        self._live = _Live((*model.parameters(), *model.buffers(), *given))
        self._model = model
        self.backends: dict[str, str] = {}
        self._door = door or _OnMeta(self._live, torch.device(device), backend, self.backends)

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


class _Live(TorchDispatchMode):
    """FLOPs by module, and bytes of the tensors alive."""

    def __init__(self, there: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self.paused = False
        self.modules: Any = ModuleTracker()
        self.flops: Counter[str] = Counter()
        self._seen = WeakIdKeyDictionary()
        for tensor in there:
            self._seen[tensor.untyped_storage()] = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        packet = func._overloadpacket
        out = func(*args, **given)
        formula = FORMULAS.get(packet) or flop_registry.get(packet)
        if formula is not None:
            self.add(formula(*args, **given, out_val=out))
        elif _uncounted(func):
            raise UsageError(str(packet), "has no count of FLOPs", "wish operations that torch counts, or a formula",
                             "attnlib.inspect.counting.FORMULAS")  # fmt: skip
        if not self.paused:
            torch.utils._pytree.tree_map_only(Tensor, self.note, out)
        return out

    def add(self, flops: int) -> None:
        """FLOPs of the modules that are at work."""
        self.flops.update(dict.fromkeys(self.modules.parents, flops))

    def note(self, tensor: Tensor) -> None:
        """A tensor that was made, or a view."""
        storage = tensor.untyped_storage()
        if storage in self._seen:
            return
        self._seen[storage] = True
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, size).atexit = False

    def _gone(self, size: int) -> None:
        self.now -= size

    @contextmanager
    def aside(self) -> Iterator[None]:
        """While open, what is made takes no memory: it is there for its count of FLOPs, or not there in a real run."""
        was, self.paused = self.paused, True
        try:
            yield
        finally:
            self.paused = was


def _uncounted(func: Any) -> bool:
    namespace, _, name = func._schema.name.partition("::")
    if namespace not in ("aten", "prim", "prims"):
        return namespace != "c10d" and "profiler" not in namespace
    return name.startswith(_WORK) and not name.startswith(_LIGHT)


class _Kernels(TorchFunctionMode):
    """Kernels that torch has for a device, as the products they compute and the memory they take."""

    def __init__(self, live: _Live) -> None:
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


class _OnMeta(Door):
    """Runs, on the meta device, the backend that a call would get on a real one."""

    def __init__(self, live: _Live, device: torch.device, backend: str, chosen: dict[str, str]) -> None:
        self.live, self.device, self.backend, self.chosen = live, device, backend, chosen
        self._layouts: dict[tuple[int, int, int], Layout] = {}

    def __call__(self, path: str, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall, run: Callable[[], Tensor]) -> Tensor:
        with self.live.aside():
            real = self._there(call)
            like = [torch.zeros((), dtype=t.dtype, device=self.device).expand(t.shape) for t in (q, k, v)]
            backend = choose(like[0], like[1], like[2], real, self.backend)
        self.chosen[path] = backend.name
        if backend.name == "flex":
            raise UsageError(path, "flex is compiled, and its work has no count before", "wish another backend, or auto")
        if backend.name == "chunked":
            return self._by_rows(q, k, v, call, cast(Chunked, backend).blocks(q, k, call))
        if backend.name != "tiles":
            return backend(q, k, v, call)
        with torch.device(self.device):  # which columns are seen is read from values, which only a real layout has
            if not call.parts and not call.dropout:
                return backend(q, k, v, real)
            blocks = columns_by_rows(real.visibility, 128)
        return self._by_rows(q, k, v, call, [(r, c if isinstance(c, slice) else c.to("meta")) for r, c in blocks])

    def _by_rows(
        self, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall, blocks: Sequence[tuple[slice, Columns]]
    ) -> Tensor:
        """The two widest blocks, which take the most memory, stand for all: work grows as the pairs in a block."""
        pairs = [_length(rows, q.shape[2]) * _length(columns, k.shape[2]) for rows, columns in blocks]
        widest = sorted(range(len(blocks)), key=lambda i: -pairs[i])[:2]
        made = RowBlocks(call, q, k, [blocks[i] for i in widest])
        before = self.live.flops["Global"]
        out = made.run(q, k, v)
        done, some = self.live.flops["Global"] - before, sum(pairs[i] for i in widest)
        if some:
            self.live.add(done * (sum(pairs) - some) // some)
        return out

    def _there(self, call: AttentionCall) -> AttentionCall:
        """The same call between dense layouts on the device, made once a forward, so that layers share what they share."""
        sight = call.visibility
        q, k = (
            self._layouts.setdefault((t.batch, t.tokens, t.start or 0), fresh(t.batch, t.tokens, t.start or 0, self.device))
            for t in (sight.q, sight.k)
        )
        made = AttentionCall(Visibility(sight.mask, q, k, sight.heads), call.rule, call.dropout)
        made.terms, made.parts = call.terms, call.parts
        return made


def _length(part: Columns, tokens: int) -> int:
    return len(range(*part.indices(tokens))) if isinstance(part, slice) else len(part)


class Skipped(Door):
    """Attention that computes nothing, where only what is kept of it counts."""

    def __call__(self, path: str, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall, run: Callable[[], Tensor]) -> Tensor:
        return q.new_empty(*q.shape[:3], v.shape[3])


def fresh(batch: int, tokens: int, start: int = 0, device: torch.device | str | None = None) -> Layout:
    """A dense layout beside which nothing is kept yet, so that masks made for it count."""
    return replace(Layout.dense(batch, tokens, start=start, device=device), memo={})
