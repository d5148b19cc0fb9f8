"""Sites: the named places of a model where its activations can be read, and other values put.

Of a stack named `decoder` (an encoder-decoder has `encoder` too) and its layer 3:

    decoder.embedding          [B, T, M]     the stream that enters the stack
    decoder.3.in               [B, T, M]     the stream before the block
    decoder.3.attention.in     [B, T, M]     the stream before the sublayer (also cross, mlp)
    decoder.3.attention.heads  [B, T, H, D]  each head's mix of values, before the out projection (also cross)
    decoder.3.mlp.hidden       [B, T, F]     what the last projection of the feed-forward reads
    decoder.3.attention.add    [B, T, M]     what the sublayer adds to the stream, before dropout (also cross, mlp)
    decoder.3.attention.out    [B, T, M]     the stream after the sublayer, its norm included where that stands after
    decoder.3.out              [B, T, M]     the stream after the block
    decoder.final              [B, T, M]     after the final norm: what the head reads

A block whose sublayers stand in parallel has no stream between them: no `.in` and `.out` of a sublayer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from attnlib.errors import UsageError, nearest
from attnlib.models.block import Block, Sublayer
from attnlib.models.stack import Stack

Look = Callable[[Tensor], Tensor | None]  # sees a value; what it returns, if anything, takes the value's place


@dataclass(frozen=True, eq=False)
class Site:
    """One place: the input or the output of a module. heads: H, where its last width is read as [H, D]."""

    name: str
    module: nn.Module
    side: Literal["input", "output"]
    heads: int | None = None

    def attach(self, look: Look) -> RemovableHandle:
        """Calls `look` with the value at each forward of this thread, until the handle is removed."""
        owner = threading.get_ident()

        def passed(value: Tensor) -> Tensor | None:
            if torch.compiler.is_compiling() or threading.get_ident() != owner:
                return None
            given = value if self.heads is None else value.unflatten(-1, (self.heads, -1))
            found = look(given)
            if found is None:
                return None
            if found.shape != given.shape:
                raise UsageError(self.name, f"was given {tuple(found.shape)}", f"must be {tuple(given.shape)}")
            return found if self.heads is None else found.flatten(-2)

        def before(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            found = passed(args[0])
            return None if found is None else (found, *args[1:])

        def after(module: nn.Module, args: tuple[Any, ...], out: Any) -> Any:
            several = isinstance(out, tuple)
            found = passed(out[0] if several else out)
            return None if found is None else (found, *out[1:]) if several else found

        if self.side == "input":
            return self.module.register_forward_pre_hook(before)
        return self.module.register_forward_hook(after)


def stacks(model: nn.Module) -> dict[str, Stack]:
    """The stacks of a model by the name that their attentions' paths begin with."""
    found = [module for module in model.modules() if isinstance(module, Stack)]
    if any(stack.memory_tokens is not None for stack in found):
        raise UsageError("stack.memory", "lets blocks read a text segment by segment", "what they make of each is not put "
                         "together again: wish a stack without memory tokens")  # fmt: skip
    return {str(stack.blocks[0].attention.body.path).rpartition(".0.")[0]: stack for stack in found}  # type: ignore[union-attr]


def sites(model: nn.Module) -> dict[str, Site]:
    """Every site of a model by name, in the order in which a forward passes them."""
    found: list[Site] = []
    for name, stack in stacks(model).items():
        found.append(Site(f"{name}.embedding", stack, "input"))
        for number, block in enumerate(stack.blocks):
            assert isinstance(block, Block)
            found += _of_block(f"{name}.{number}", block)
        found.append(Site(f"{name}.final", stack, "output"))
    return {site.name: site for site in found}


def _of_block(path: str, block: Block) -> Iterator[Site]:
    yield Site(f"{path}.in", block, "input")
    for name in ("attention", "cross", "mlp"):
        sublayer = getattr(block, name)
        if sublayer is not None:
            yield from _of_sublayer(f"{path}.{name}", sublayer)
    yield Site(f"{path}.out", block, "output")


def _of_sublayer(path: str, sublayer: Sublayer) -> Iterator[Site]:
    body, out, down = sublayer.body, getattr(sublayer.body, "out", None), getattr(sublayer.body, "down", None)
    if sublayer.residual:
        yield Site(f"{path}.in", sublayer, "input")
    heads = getattr(body, "num_heads", None)
    if isinstance(out, nn.Module) and isinstance(heads, int):
        yield Site(f"{path}.heads", out, "input", heads)
    if isinstance(down, nn.Module):
        yield Site(f"{path}.hidden", down, "input")
    yield Site(f"{path}.add", body if sublayer.after is None else sublayer.after, "output")
    if sublayer.residual:
        yield Site(f"{path}.out", sublayer, "output")


def sites_named(model: nn.Module, patterns: str | Sequence[str]) -> list[Site]:
    """The sites whose names match one of the patterns ("decoder.*.out"). Raises UsageError for one that matches none."""
    known = sites(model)
    asked = [patterns] if isinstance(patterns, str) else list(patterns) if isinstance(patterns, Sequence) else [patterns]
    for pattern in asked:
        if not isinstance(pattern, str) or not any(fnmatchcase(name, pattern) for name in known):
            first = ", ".join(list(known)[:4])
            raise UsageError("site", f"{pattern!r} is none of the model's", f"wish one such as {first}",
                             nearest(str(pattern), known))  # fmt: skip
    return [site for name, site in known.items() if any(fnmatchcase(name, pattern) for pattern in asked)]


@contextmanager
def watching(model: nn.Module, looks: Mapping[str, Look]) -> Iterator[None]:
    """While open, each site named is seen by its function at every forward of this thread.

    A function gets the value and may return one of the same shape to stand in its place. Patterns may name several sites.
    """
    with ExitStack() as stack:
        for pattern, look in looks.items():
            for site in sites_named(model, pattern):
                stack.callback(site.attach(look).remove)
        yield
