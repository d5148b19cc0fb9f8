"""What a model returns, and how it reads what it is given."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from attnlib.errors import LayoutError
from attnlib.layout import Layout

if TYPE_CHECKING:
    from attnlib.models.state import DecodingState


@dataclass
class Output:
    """logits: [B, T, V], or [N, V] at chosen places, or [B, L] of a pooled head; None without a head.

    last: [B, T, M] after the final norm. hidden: on request the stream before each block and after the last.
    pooled: [B, M] of heads that pool. memory: the encoder's own output. aux: further losses by name.
    text_logits: [B, L] of the whole text, from a head that reads tokens and the text.
    """

    last: Tensor
    logits: Tensor | None = None
    hidden: tuple[Tensor, ...] | None = None
    pooled: Tensor | None = None
    memory: Output | None = None
    aux: dict[str, Tensor] = field(default_factory=dict)
    text_logits: Tensor | None = None


def read_layout(
    ids: Tensor | None,
    layout: Layout | None,
    attention_mask: Tensor | None,
    embeds: Tensor | None,
    state: DecodingState | None = None,
    name: str = "ids",
) -> Layout:
    """The layout given, or made of a plain mask, or dense after what `state` holds; shapes checked."""
    if (ids is None) == (embeds is None):
        both = "neither" if ids is None else "both"
        raise LayoutError(name, f"{both} of {name} and embeds are given", "give exactly one")
    given = ids if ids is not None else embeds
    assert given is not None
    if given.dim() != (2 if ids is not None else 3):
        wish = "must be [batch, tokens]" if ids is not None else "must be [batch, tokens, width]"
        raise LayoutError(name, f"have shape {tuple(given.shape)}", wish)
    if ids is not None and (ids.is_floating_point() or ids.is_complex()):
        raise LayoutError(name, f"are {ids.dtype}", "must be integers")
    if layout is not None and attention_mask is not None:
        raise LayoutError("attention_mask", "is given beside a layout", "give one of them")
    if attention_mask is not None and state is not None:
        raise LayoutError("attention_mask", "is given beside a state", "give a layout to step",
                          "Layout.from_lengths(lengths, tokens, side=..., starts=state.lengths)")  # fmt: skip
    if layout is None and attention_mask is not None:
        layout = Layout.from_mask(attention_mask)
    if layout is None:
        if state is None:
            return Layout.dense(given.shape[0], given.shape[1], device=given.device)
        layout = state.following(given.shape[1])
        state.count(layout)
    if (layout.batch, layout.tokens) != tuple(given.shape[:2]):
        raise LayoutError("layout", f"is for {(layout.batch, layout.tokens)}", f"{name} are {tuple(given.shape[:2])}")
    return layout
