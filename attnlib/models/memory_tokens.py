"""Memory tokens: a stack reads a text segment by segment, and hands a few vectors from each to the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from attnlib.attention.beside import BesideSpec
from attnlib.attention.caches import Memory
from attnlib.attention.masks import Everything, Mask, terms
from attnlib.attention.softmax import MixerSpec
from attnlib.attention.state_cache import StateCache
from attnlib.errors import LayoutError
from attnlib.layout import Layout
from attnlib.models.block import BlockSpec
from attnlib.models.state import DecodingState
from attnlib.spec import FieldError, Spec


class Streams(NamedTuple):
    """The stream [N, C, M] after the last block, on request before each block and after the last, and further losses."""

    last: Tensor
    hidden: tuple[Tensor, ...]
    aux: dict[str, Tensor]


class Blocks(Protocol):
    """All blocks over x [N, C, M], a text a row, after what a state holds."""

    def __call__(self, x: Tensor, layout: Layout, state: DecodingState | None) -> Streams: ...


class MemoryTokens(nn.Module):
    """Segments of `segment` tokens, each behind the memory that the one before it left (RMT, Bulatov et al. 2022).

    arXiv:2207.06881. Causal: [memory | segment | memory], where the second copy sees the whole segment and becomes, as the
    stack leaves it, the next memory. Both ways: [memory | segment], the next memory being what its places become. The first
    memory [R, M] is learned, and gradients flow from segment to segment. Masks, biases and rotary count from the first
    memory token of a segment; what an embedding adds by position is of the whole text.
    """

    def __init__(self, *, tokens: int, segment: int, d_model: int, causal: bool) -> None:
        super().__init__()
        self.tokens, self.segment, self.causal = tokens, segment, causal
        self.first = nn.Parameter(torch.empty(tokens, d_model))

    def forward(
        self, x: Tensor, columns: Sequence[Sequence[int]], blocks: Blocks, *, norm: Callable[[Tensor], Tensor],
        carried: Carried | None,
    ) -> Streams:  # fmt: skip
        """x [B, T, M] whose texts stand in these of its B * T `columns`, each after what `carried` holds of it, to streams
        [B, T, M]; zeros where no token is."""
        went = carried or Carried(None)
        went.begin(self.first, len(columns))
        tokens, done = x.flatten(0, 1), [0] * len(columns)
        came, passes = list[int](), list[Streams]()  # the columns in the order in which passes give them
        while any(at < len(text) for at, text in zip(done, columns)):
            step = self._step(went, [len(text) - at for at, text in zip(done, columns)])
            new = [column for text, at, row in zip(columns, done, step) for column in text[at : at + row.new]]
            made = blocks(went.input(step, _pick(tokens, new)), *went.place(step, x.device))
            passes.append(_of_tokens(step, made))
            went.take(step, _pick(tokens, new), made.last, norm)
            came += new
            done = [at + row.new for at, row in zip(done, step)]
        if not passes:
            return blocks(x, Layout.dense(*x.shape[:2], device=x.device), None)
        order = [len(came)] * len(tokens)  # where no token is: a row of zeros behind all
        for at, column in enumerate(came):
            order[column] = at
        last, *hidden = (
            _pick(torch.cat([*parts, torch.zeros_like(parts[0][:1])]), order).unflatten(0, x.shape[:2])
            for parts in zip(*((each.last, *each.hidden) for each in passes))
        )
        aux = {name: torch.stack([each.aux[name] for each in passes]).mean() for name in passes[0].aux}
        return Streams(last, tuple(hidden), aux)

    def _step(self, went: Carried, left: Sequence[int]) -> list[Row]:
        """The next pass: of each text, with so many tokens left, what its segment takes of them."""
        step = []
        for filled, coming in zip(went.filled, left):
            new = min(self.segment - filled, coming)
            begins = (went.state is None or not filled) and (new > 0 or (went.lasts and filled > 0))
            full = new > 0 and filled + new == self.segment and (went.lasts or coming > new)
            step.append(Row(begins=self.tokens * begins, held=filled * begins, new=new, full=full,
                            writes=self.tokens * (full and self.causal),
                            start=0 if begins else self.tokens + filled))  # fmt: skip
        return step

    def extra_repr(self) -> str:
        return f"tokens={self.tokens}, segment={self.segment}"


class Row(NamedTuple):
    """What one pass reads of one text: memory, held and new tokens, memory again; `start` is the first one's position."""

    begins: int
    held: int
    new: int
    writes: int
    full: bool
    start: int

    @property
    def ahead(self) -> int:
        """Columns before the new tokens."""
        return self.begins + self.held

    @property
    def length(self) -> int:
        return self.ahead + self.new + self.writes


class Carried(StateCache):
    """The memory [N, R, M] of each text, the tokens [N, F, M] of its segment so far, and the caches of that segment.

    A segment that ends is forgotten; the others of the batch are then read into new caches. make: empty caches for so many
    rows; None = nothing comes after this forward.
    """

    def __init__(self, make: Callable[[int], DecodingState] | None) -> None:
        super().__init__()
        self.make, self.lasts = make, make is not None
        self.filled: tuple[int, ...] = ()  # tokens of its segment so far, a text
        self.state: DecodingState | None = None

    def begin(self, memory: Tensor, texts: int) -> None:
        """With the learned memory, where nothing was read yet."""
        if not self.held:
            self.held = {"memory": memory.expand(texts, -1, -1), "tokens": memory.new_zeros(texts, 0, memory.shape[1])}
            self.filled = (0,) * texts

    def input(self, step: Sequence[Row], new: Tensor) -> Tensor:
        """[N, C, M] what the blocks read, of new tokens [n, M] in the order of their texts."""
        memory, tokens = self.held["memory"], self.held["tokens"]
        pool = torch.cat([new.new_zeros(1, new.shape[1]), memory.flatten(0, 1), tokens.flatten(0, 1), new])
        remember, known = memory.shape[1], 1 + memory.shape[0] * memory.shape[1]
        at, width, index = known + tokens.shape[0] * tokens.shape[1], max(row.length for row in step), list[int]()
        for number, row in enumerate(step):
            read, hold = 1 + number * remember, known + number * tokens.shape[1]
            index += [*range(read, read + row.begins), *range(hold, hold + row.held), *range(at, at + row.new)]
            index += [*range(read, read + row.writes)] + [0] * (width - row.length)
            at += row.new
        found: Tensor = _pick(pool, index).unflatten(0, (len(step), width))
        return found

    def place(self, step: Sequence[Row], device: torch.device) -> tuple[Layout, DecodingState | None]:
        """Where that stands, and the caches it comes after."""
        layout = Layout.from_lengths([row.length for row in step], starts=[row.start for row in step], device=device)
        if self.make is not None:
            self.state = self.state or self.make(len(step))
            self.state.count(layout)
        return layout, self.state

    def take(self, step: Sequence[Row], new: Tensor, read: Tensor, norm: Callable[[Tensor], Tensor]) -> None:
        """Keep the new tokens, and of what the blocks made of the pass, read [N, C, M], the memory of segments that end."""
        memory, tokens = self.held["memory"], self.held["tokens"]
        if any(row.full for row in step):
            ended = [number for number, row in enumerate(step) if row.full]
            firsts = [n * read.shape[1] + (step[n].ahead + step[n].new if step[n].writes else 0) for n in ended]
            index = [first + i for first in firsts for i in range(memory.shape[1])]
            left = norm(_pick(read.flatten(0, 1), index)).unflatten(0, (len(ended), -1))
            memory = memory.index_copy(0, torch.tensor(ended, device=memory.device), left.to(memory.dtype))
            self.state = None
        before, self.filled = self.filled, tuple(0 if r.full else f + r.new for f, r in zip(self.filled, step))
        if self.lasts:
            pool, width, index = torch.cat([new.new_zeros(1, new.shape[1]), tokens.flatten(0, 1), new]), max(self.filled), []
            at = 1 + tokens.shape[0] * tokens.shape[1]
            for number, (filled, row) in enumerate(zip(self.filled, step)):
                hold = 1 + number * tokens.shape[1]
                kept = [] if row.full else [*range(hold, hold + before[number]), *range(at, at + row.new)]
                index += kept + [0] * (width - filled)
                at += row.new
            tokens = _pick(pool, index).unflatten(0, (len(step), width))
        self.held = {"memory": memory, "tokens": tokens}

    def select(self, rows: Tensor) -> None:
        super().select(rows)
        self.filled = tuple(self.filled[row] for row in rows.tolist()) if self.held else ()
        if self.state is not None:
            self.state.select(rows)

    def save(self) -> object:
        return super().save(), self.filled, self.state, None if self.state is None else self.state.save()

    def restore(self, saved: object) -> None:
        assert isinstance(saved, tuple)
        held, self.filled, self.state, kept = saved
        super().restore(held)
        if self.state is not None:
            self.state.restore(kept)

    def detach(self) -> None:
        super().detach()
        if self.state is not None:
            self.state.detach()

    def nbytes(self) -> int:
        return super().nbytes() + (0 if self.state is None else self.state.nbytes())


class MemorySpec(Spec):
    """`tokens` memory vectors that each segment of `segment` tokens reads, and hands on (RMT, Bulatov et al. 2022)."""

    tokens: int = Field(ge=1)
    segment: int = Field(ge=1)

    def check(self, layers: Sequence[BlockSpec], *, path: str) -> None:
        """Raises FieldError where a token could not reach all of its segment's memory, or the memory not all of it."""
        masks = [mask for layer in layers for mask in _masks(layer.attention)]
        forms = {(form.before, form.after, form.rest) for form in map(terms, masks)}
        if forms not in ({(None, 0, None)}, {(None, None, None)}):
            kinds = ", ".join(sorted({mask.kind for mask in masks}))
            raise FieldError(path, f"under masks of kind {kinds}", "tokens must reach the memory of their segment, and it "
                             "them: wish causal in all blocks, or everything in all")  # fmt: skip

    def build(self, layers: Sequence[BlockSpec], *, d_model: int) -> MemoryTokens:
        causal = terms(_masks(layers[0].attention)[0]).causal
        return MemoryTokens(tokens=self.tokens, segment=self.segment, d_model=d_model, causal=causal)


def _masks(mixer: MixerSpec) -> list[Mask]:
    """The masks of a mixer, or of those that stand beside each other in one."""
    if isinstance(mixer, BesideSpec):
        return [mask for part in mixer.mixers for mask in _masks(part)]
    return [getattr(mixer, "mask", Everything())]


class Texts(NamedTuple):
    """columns: of each text, numbered through the batch [B * T]. rows, numbers: of packed texts the row, and which of it."""

    columns: list[list[int]]
    rows: list[int] | None = None
    numbers: list[int] | None = None

    @staticmethod
    def of(layout: Layout, *, alone: bool) -> Texts:
        """alone: what comes before is held row by row, so that a row is one text."""
        width, runs = layout.tokens, layout.runs
        if layout.segments is None:
            return Texts([[*range(row * width, (row + 1) * width)] for row in range(layout.batch)])
        if runs is None and (layout.counts is None or layout.device.type == "meta"):
            raise LayoutError("layout", "tells the host of no texts", "memory tokens read segments that the host cuts: wish "
                              "Layout.dense, from_lengths, from_mask or packed")  # fmt: skip
        if runs is None:
            real = (layout.segments >= 0).tolist()
            return Texts([[row * width + c for c, here in enumerate(line) if here] for row, line in enumerate(real)])
        columns = [[*range(row * width + at, row * width + at + n)] for row, at, n in runs]
        rows = [row for row, _, _ in runs]
        if len(set(rows)) == len(rows):
            held = dict(zip(rows, columns))
            return Texts([held.get(row, []) for row in range(layout.batch)])
        if alone:
            raise LayoutError("layout", "packs several texts into a row", "memory is held for one: give each its own row")
        return Texts(columns, rows, [rows[:i].count(row) for i, row in enumerate(rows)])

    def source(self, kept: Memory) -> Memory:
        """An encoder's output as each text reads it: of packed ones, the segment of its own number in its row."""
        if self.rows is None or self.numbers is None:
            return kept
        index = torch.tensor(self.rows, device=kept.layout.device)
        held = kept.select(index)
        segments = torch.zeros_like(held.layout.positions) if held.layout.segments is None else held.layout.segments
        own = segments == torch.tensor(self.numbers, device=index.device)[:, None]
        return Memory(held.entry, Layout.of(held.layout.positions, torch.where(own, 0, -1)))


def _of_tokens(step: Sequence[Row], made: Streams) -> Streams:
    """The streams [n, M] of the new tokens alone."""
    width = made.last.shape[1]
    index = [row * width + c for row, one in enumerate(step) for c in range(one.ahead, one.ahead + one.new)]
    last, *hidden = (_pick(each.flatten(0, 1), index) for each in (made.last, *made.hidden))
    return Streams(last, tuple(hidden), made.aux)


def _pick(pool: Tensor, index: Sequence[int]) -> Tensor:
    """Rows of pool [P, M]."""
    return pool.index_select(0, torch.tensor(index, dtype=torch.long, device=pool.device))
