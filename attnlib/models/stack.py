"""Stack: n blocks over one residual stream, with one visibility a pattern."""

from __future__ import annotations

from typing import Any, NamedTuple, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from attnlib.attention.biases import ScoreTerm, TermSpec
from attnlib.attention.caches import Growing, LayerCache, Memory, Rolling, Slots, Static
from attnlib.attention.masks import Retention
from attnlib.attention.scope import Scope
from attnlib.attention.softmax import SoftmaxAttention, SoftmaxAttentionSpec
from attnlib.errors import UsageError
from attnlib.layout import Layout
from attnlib.models.block import Block, BlockSpec
from attnlib.models.memory_tokens import Carried, MemorySpec, MemoryTokens, Streams, Texts
from attnlib.models.state import DecodingState
from attnlib.nn.linear import Linear
from attnlib.nn.norms import Norm
from attnlib.spec import FieldError, Spec

MOST_LAYERS = 10_000  # ten times the deepest that is known: a number beyond is a slip, and would be counted up to for hours


class StackOutput(NamedTuple):
    """last [B, T, M]; hidden: on request the stream before each block and after the last; aux: further losses by name."""

    last: Tensor
    hidden: tuple[Tensor, ...] | None
    aux: dict[str, Tensor]


class Stack(nn.Module):
    """Blocks one after another, the final norm, `project` to another width; `bias` is shared by all self-attentions.

    It is one score term, or what those share of the terms that each has of its own. With `memory_tokens` the blocks read a
    text segment by segment.
    """

    def __init__(
        self,
        blocks: list[Block],
        *,
        final_norm: nn.Module | None = None,
        bias: nn.Module | None = None,
        project: nn.Module | None = None,
        dropout: float = 0.0,
        memory_tokens: MemoryTokens | None = None,
    ) -> None:
        super().__init__()
        self.blocks, self.memory_tokens = nn.ModuleList(blocks), memory_tokens
        self.final_norm, self.project, self.bias, self.dropout = final_norm, project, bias, dropout
        self.backend = "auto"
        self.checkpointing = False  # recompute each block in the backward

    def forward(
        self,
        x: Tensor,
        layout: Layout,
        *,
        state: DecodingState | None = None,
        memory: list[Memory] | None = None,
        hidden: bool = False,
    ) -> StackOutput:
        """x [B, T, M] through the blocks, after what a `state` holds."""
        if state is not None:
            state.extend(layout)
            memory = state.memory
        if self.memory_tokens is None:
            found = self._blocks(x, layout, state, memory, hidden)
        else:
            found = self._segments(x, layout, state, memory, hidden)
        return StackOutput(self.finish(found.last), found.hidden if hidden else None, found.aux)

    def _blocks(
        self, x: Tensor, layout: Layout, state: DecodingState | None, memory: list[Memory] | None, hidden: bool
    ) -> Streams:
        """The blocks alone, one after the other."""
        terms = (self.bias,) if isinstance(self.bias, ScoreTerm) else ()
        scope = Scope(terms=terms, lengths=None if state is None else state.horizon, backend=self.backend)
        caches: list[LayerCache | None] = [None] * len(self.blocks) if state is None else [*state.caches]
        stream = [x]
        for block, cache, kept in zip(self.blocks, caches, memory or [None] * len(self.blocks)):  # type: ignore[list-item]
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(_alone, block, x, layout, scope, kept, cache, use_reentrant=False)
            else:
                x = block(x, layout, scope, memory=kept, cache=cache)
            if hidden:
                stream.append(x)
        return Streams(x, tuple(stream) if hidden else (), scope.losses())

    def _segments(
        self, x: Tensor, layout: Layout, state: DecodingState | None, memory: list[Memory] | None, hidden: bool
    ) -> Streams:
        """The blocks over one segment after the other, with memory tokens about it."""
        assert self.memory_tokens is not None
        carried = None if state is None else cast(Carried, state.caches[0])
        texts = Texts.of(layout, alone=carried is not None)
        sources = memory and [texts.source(kept) for kept in memory]

        def blocks(x: Tensor, layout: Layout, inner: DecodingState | None) -> Streams:
            if inner is not None:
                inner.extend(layout)
            return self._blocks(x, layout, inner, sources, hidden)

        norm = self.final_norm or nn.Identity()
        return self.memory_tokens(x, texts.columns, blocks, norm=norm, carried=carried)  # type: ignore[no-any-return]

    @property
    def max_length(self) -> int | None:
        """Longest text in tokens that every self-attention takes; None = no bound."""
        return shortest(*(getattr(block.attention.body, "max_length", None) for block in self.blocks))  # type: ignore[union-attr]

    @property
    def max_source_length(self) -> int | None:
        """The same of what is read by cross-attention."""
        crosses = (block.cross for block in self.blocks)
        return shortest(*(getattr(cross.body, "max_length", None) for cross in crosses if cross is not None))  # type: ignore[union-attr]

    def finish(self, x: Tensor) -> Tensor:
        """What comes after the last block: the final norm, `project` and dropout."""
        if self.final_norm is not None:
            x = self.final_norm(x)
        if self.project is not None:
            x = self.project(x)
        return F.dropout(x, self.dropout) if self.dropout and self.training else x

    def remember(self, x: Tensor, layout: Layout) -> list[Memory]:
        """What each block's cross-attention keeps of an encoder's output x [B, S, M]."""
        return [block.cross.body.remember(x, layout) for block in self.blocks]  # type: ignore[union-attr, operator]

    def new_state(
        self, batch: int, *, cache: str = "growing", capacity: int | None = None, device: torch.device | None = None
    ) -> DecodingState:
        """Empty caches: "growing", "static" (of `capacity` columns) or "rolling" (where a mask lets columns go)."""
        device = device or next(self.parameters()).device
        if cache not in ("growing", "static", "rolling"):
            raise UsageError("cache", f"is {cache!r}", "must be growing, static or rolling")
        if cache == "static" and capacity is None:
            raise UsageError("cache", "is static without a capacity", "give capacity=prompt + new tokens")
        if batch < 0 or (capacity is not None and capacity < 0):
            raise UsageError("cache", f"is for batch {batch}, capacity {capacity}", "must be at least 0")
        if self.memory_tokens is not None:
            carried = Carried(lambda rows: self._caches(rows, "growing", None, device))
            return DecodingState([carried], [], batch=batch, device=device, capacity=capacity)
        return self._caches(batch, cache, capacity, device)

    def _caches(self, batch: int, cache: str, capacity: int | None, device: torch.device) -> DecodingState:
        """Empty caches of every block."""
        slots: dict[Retention | None, Slots] = {}
        caches: list[LayerCache] = []
        for block in self.blocks:
            mixer = block.attention.body  # type: ignore[union-attr]
            if getattr(mixer, "stateful", False):  # no columns, so nothing that grows
                caches.append(mixer.new_cache(Rolling(Retention(0, 0))))  # type: ignore[operator, union-attr]
                continue
            keeps = mixer.keeps() if cache == "rolling" else None  # type: ignore[operator, union-attr]
            keeps = None if keeps is None or keeps.last is None else keeps
            if keeps not in slots:
                if cache == "static":
                    assert capacity is not None
                    slots[keeps] = Static(batch=batch, capacity=capacity, device=device)
                else:
                    slots[keeps] = Growing() if keeps is None else Rolling(keeps)
            caches.append(mixer.new_cache(slots[keeps]))  # type: ignore[operator, union-attr]
        return DecodingState(
            caches, list(slots.values()), batch=batch, device=device, capacity=capacity, fixed_shapes=cache == "static"
        )


def shortest(*lengths: int | None) -> int | None:
    """The least of several bounds, None = there is none."""
    return min((length for length in lengths if length is not None), default=None)


def _alone(block: Block, x: Tensor, layout: Layout, scope: Scope, memory: Memory | None, cache: Any) -> Tensor:
    """A block that shares nothing made in this forward, so that its recomputation runs the same operations."""
    return block(x, layout, scope.fresh(), memory=memory, cache=cache)  # type: ignore[no-any-return]


def _lend(owner: nn.Module, other: nn.Module) -> None:
    """Give the other module the owner's parameters in place of its own; it keeps all else."""
    for name, parameter in owner.named_parameters():
        place, _, leaf = name.rpartition(".")
        setattr(other.get_submodule(place), leaf, parameter)


class SharingSpec(Spec):
    """Layers that share their weights: `groups` runs of equally many layers, each run a cycle of `cycle` layers, repeated.

    The defaults give all layers one set (ALBERT, Lan et al. 2020, arXiv:1909.11942); groups or cycle alone are the SEQUENCE
    and the CYCLE of Takase & Kiyono (2021, arXiv:2104.06022). Masks, caches and dropout stay each layer's own.
    """

    groups: int = Field(default=1, ge=1)
    cycle: int = Field(default=1, ge=1)

    def owners(self, num_layers: int) -> tuple[int, ...]:
        """The layer whose weights each layer has."""
        run = num_layers // self.groups
        return tuple(i // run * run + i % run % self.cycle for i in range(num_layers))


class StackSpec(Spec):
    """num_layers copies of `block`, or of the named `blocks` in the order of `pattern`, repeated.

    bias: one score term for the whole stack (T5). dropout: after the final norm. d_out: the width that the stream is
    projected to after it, without bias (OPT); null = as it is. sharing: layers with the weights of others (ALBERT).
    memory: tokens that segments of a text hand on (RMT).
    """

    num_layers: int = Field(ge=1, le=MOST_LAYERS)
    block: BlockSpec | None = None
    blocks: dict[str, BlockSpec] = Field(default={})
    pattern: tuple[str, ...] = ()
    final_norm: Norm | None = None
    bias: TermSpec | None = None
    d_out: int | None = Field(default=None, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    sharing: SharingSpec | None = None
    memory: MemorySpec | None = None

    @property
    def depth(self) -> int:
        """Layers with weights of their own."""
        return self.num_layers if self.sharing is None else self.sharing.groups * self.sharing.cycle

    @model_validator(mode="after")
    def _layers(self) -> Self:
        if (self.block is None) == (not self.blocks):
            raise FieldError(
                "block", "missing" if self.block is None else "given beside blocks", "wish block, or blocks with a pattern"
            )
        if self.blocks and not self.pattern:
            raise FieldError("pattern", "missing", "must name the blocks in order")
        unknown = [name for name in self.pattern if name not in self.blocks]
        if unknown:
            raise FieldError(
                "pattern", f"{unknown[0]!r} is unknown", f"wish names out of {', '.join(self.blocks) or 'blocks'}"
            )
        return self

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if self.sharing is not None:
            whole = self.sharing.groups * self.sharing.cycle
            if self.num_layers % whole:
                fact = f"{whole} (groups x cycle) over {self.num_layers} layers"
                raise FieldError("sharing", fact, "must divide num_layers")
            for i, owner in enumerate(self.sharing.owners(self.num_layers)):
                if self.layers[i] != self.layers[owner]:
                    raise FieldError("sharing", f"layers {owner} and {i} are unlike", "only equal blocks share weights")
        return self

    @property
    def layers(self) -> tuple[BlockSpec, ...]:
        """The block of every layer."""
        if self.block is not None:
            return (self.block,) * self.num_layers
        return tuple(self.blocks[self.pattern[i % len(self.pattern)]] for i in range(self.num_layers))

    def check(self, *, d_model: int, path: str, decodes: bool = False) -> None:
        """Raises FieldError, its field below `path`, where a part cannot stand in a model of this width, or in a decoder."""
        named = {"block": self.block} if self.block is not None else {f"blocks.{n}": b for n, b in self.blocks.items()}
        for name, block in named.items():
            block.check(d_model=d_model, path=f"{path}.{name}", decodes=decodes)
            kind = block.attention
            if self.bias is not None and isinstance(kind, SoftmaxAttentionSpec) and not kind.places:
                raise FieldError(f"{path}.bias", f"over {kind.kind}", "its keys stand nowhere: wish no bias")
        if self.memory is not None:
            self.memory.check(self.layers, path=f"{path}.memory")
        heads = {b.attention.num_heads if isinstance(b.attention, SoftmaxAttentionSpec) else None for b in self.layers}
        if self.bias is not None and (None in heads or (self.bias.by_head and len(heads) > 1)):
            raise FieldError(f"{path}.bias", "shared by layers of unlike heads", "give every block the same num_heads")
        for layer in self.layers if self.bias is not None else ():
            assert self.bias is not None and isinstance(layer.attention, SoftmaxAttentionSpec)
            try:
                self.bias.check(mask=layer.attention.mask, cross=False)
            except FieldError as error:
                raise FieldError(f"{path}.bias.{error.field}", error.fact, error.wish, error.hint) from None

    def build(self, *, d_model: int, d_memory: int | None = None, path: str = "stack") -> Stack:
        blocks = [spec.build(d_model=d_model, layer=i, d_memory=d_memory) for i, spec in enumerate(self.layers)]
        for i, owner in enumerate(self.sharing.owners(self.num_layers) if self.sharing else ()):
            _lend(blocks[owner], blocks[i])
        for i, block in enumerate(blocks):
            block.attention.body.path = f"{path}.{i}.self"  # type: ignore[assignment]
            if block.cross is not None:
                block.cross.body.path = f"{path}.{i}.cross"  # type: ignore[assignment]
        bias = None
        if self.bias is not None:
            bias = self.bias.shared([*dict.fromkeys(cast(SoftmaxAttention, b.attention.body) for b in blocks)])
        norm = None if self.final_norm is None else self.final_norm.build(d_model)
        project = None if self.d_out is None else Linear(d_model, self.d_out, bias=False)
        memory = None if self.memory is None else self.memory.build(self.layers, d_model=d_model)
        return Stack(blocks, final_norm=norm, bias=bias, project=project, dropout=self.dropout, memory_tokens=memory)
