"""A model under check: weights that make it sensitive, and its outputs row by row however the rows are laid out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from attnlib.attention.masks import Mask, picture
from attnlib.attention.softmax import SoftmaxAttention
from attnlib.generate.prompts import blocks, vocab_of
from attnlib.inspect.describe import advance
from attnlib.layout import Layout
from attnlib.models.encoder import Encoder
from attnlib.models.encoder_decoder import EncoderDecoder
from attnlib.models.heads import PooledHead
from attnlib.models.spec import ModelSpec


class Text(NamedTuple):
    """Ids of one row, and of its source where the model has an encoder and a decoder."""

    ids: list[int]
    source: list[int] | None = None

    def cut(self, tokens: int) -> Text:
        return Text(self.ids[:tokens], None if self.source is None else self.source[: max(tokens - 1, 1)])


class Seen(NamedTuple):
    """What a model gave for one text: [n, F] a token and, of a pooled head, [1, L] for the whole."""

    tokens: Tensor
    whole: Tensor | None = None


@dataclass
class Subject:
    """A model with drawn weights, in evaluation mode; `tokens`: the longest text."""

    model: Any
    tokens: int
    device: torch.device
    dtype: torch.dtype

    @property
    def both(self) -> bool:
        return isinstance(self.model, EncoderDecoder)

    @property
    def cached(self) -> bool:
        """Whether the model writes token by token."""
        return not isinstance(self.model, Encoder)

    @property
    def over_tokens(self) -> bool:
        """Whether the head, if there is one, gives logits for each token."""
        return self.model.head is not None and not isinstance(self.model.head, PooledHead)

    @property
    def masks(self) -> dict[str, Mask]:
        """The mask of every self-attention of the stack that writes (or the only one), by path."""
        stack = self.model.decoder if self.both else self.model.stack
        bodies = [block.attention.body for block in stack.blocks]
        return {body.path: body.mask for body in bodies if isinstance(getattr(body, "mask", None), Mask)}

    def sees_ahead(self) -> str | None:
        """The path of a self-attention that lets a token see a later one."""
        for path, mask in self.masks.items():
            rows = picture(mask, self.tokens).split("  ")
            if any("#" in row[i + 1 :] for i, row in enumerate(rows)):
                return path
        return None

    def text(self, tokens: int, seed: int) -> Text:
        """A random text."""
        made = torch.Generator().manual_seed(seed)
        ids = torch.randint(vocab_of(self.model), (tokens,), generator=made).tolist()
        if not self.both:
            return Text(ids)
        return Text(ids, torch.randint(vocab_of(self.model, source=True), (max(tokens - 1, 1),), generator=made).tolist())

    def alone(self, text: Text) -> Seen:
        """One text, nothing beside it."""
        return self.together([text])[0]

    def together(self, texts: Sequence[Text], side: str = "right", tokens: int | None = None) -> list[Seen]:
        """A row a text, padded on a side with random ids."""
        layout = Layout.from_lengths([len(t.ids) for t in texts], tokens, side=side)
        sources = None
        if self.both:
            sources = Layout.from_lengths([len(t.source or ()) for t in texts], tokens, side=side)
        return self.laid(texts, layout, sources)

    def packed(self, rows: Sequence[Sequence[Text]], room: int = 0) -> list[Seen]:
        """Several texts a row, end to end."""
        width = max(sum(len(t.ids) for t in row) for row in rows) + room
        layout = Layout.packed([[len(t.ids) for t in row] for row in rows], width)
        sources = Layout.packed([[len(t.source or ()) for t in row] for row in rows], width) if self.both else None
        return self.laid([t for row in rows for t in row], layout, sources)

    def laid(self, texts: Sequence[Text], layout: Layout, sources: Layout | None) -> list[Seen]:
        """The texts in the places that the layouts give them."""
        ids = self._ids([t.ids for t in texts], layout)
        layout = layout.to(self.device)
        with torch.no_grad():
            if sources is None:
                out = self.model(ids, layout)
            else:
                out = self.model(decoder_ids=ids, layout=sources.to(self.device), decoder_layout=layout,
                                 **self._source(texts, sources))  # fmt: skip
        x = out.logits if self.over_tokens else out.last
        whole = out.logits if isinstance(self.model.head, PooledHead) and len(texts) == layout.batch else None
        return [
            Seen(x[row, first : first + n], None if whole is None else whole[row : row + 1])
            for row, first, n in layout.runs or ()
        ]

    def stepped(self, texts: Sequence[Text], cache: str, chunk: int) -> list[Seen]:
        """Token by token or in chunks through a cache, rows padded on the left."""
        found: list[list[Tensor]] = [[] for _ in texts]
        with torch.no_grad():
            state = self._begin(texts, cache)
            state.horizon = tuple(len(t.ids) for t in texts)  # known before the prefill, as in generation
            for ids, layout, counts in blocks([t.ids for t in texts], "left", chunk, self.device):
                if self.over_tokens:
                    x = self.model.step(ids, layout, state, at=slice(None))
                else:
                    x = advance(self.model, ids, state, layout)
                for row, n in enumerate(counts):
                    found[row].append(x[row, x.shape[1] - n :])
        return [Seen(torch.cat(parts)) for parts in found]

    def _begin(self, texts: Sequence[Text], cache: str) -> Any:
        if not self.both:
            return self.model.begin(batch=len(texts), cache=cache, capacity=self.tokens)
        layout = Layout.from_lengths([len(t.source or ()) for t in texts])
        read = self._source(texts, layout)
        source = {"source_ids": read["ids"]} if "ids" in read else read
        return self.model.begin(layout=layout.to(self.device), cache=cache, capacity=self.tokens, **source)

    def _source(self, texts: Sequence[Text], layout: Layout) -> dict[str, Tensor]:
        """The sources in their places as the encoder takes them: ids or, of features, what each was read as alone."""
        if self.model.features is None:
            return {"ids": self._ids([t.source or [] for t in texts], layout, source=True)}
        return {"embeds": self.source_embeds(texts, layout)}

    def source_embeds(self, texts: Sequence[Text], layout: Layout) -> Tensor:
        """[B, S, E] of the sources in their places, before positions; of features, a frame drawn for each id."""
        ids, features = self._ids([t.source or [] for t in texts], layout, source=True), self.model.features
        if features is None:
            return self.model.embedding.token.weight.detach()[ids]  # type: ignore[no-any-return]
        made = torch.Generator().manual_seed(8)
        frames = torch.randn(vocab_of(self.model, source=True), features.channels, generator=made)
        frames = frames.to(self.device, self.dtype)
        x = torch.randn(layout.batch, layout.tokens, features.d_model, generator=made).to(frames)
        for row, first, n in layout.runs or ():
            sound = frames[ids[row, first : first + n]].repeat_interleave(features.stride, 0)
            x[row, first : first + n] = features.read(sound.T[None])[0].detach()
        return x

    def _ids(self, rows: Sequence[Sequence[int]], layout: Layout, *, source: bool = False) -> Tensor:
        """[B, T] with the rows in the runs of a layout and random ids where there is no token."""
        made = torch.Generator().manual_seed(7)
        ids = torch.randint(vocab_of(self.model, source=source), (layout.batch, layout.tokens), generator=made)
        for (row, first, n), values in zip(layout.runs or (), rows):
            ids[row, first : first + n] = torch.tensor(list(values), dtype=torch.long)
        return ids.to(self.device)


@torch.no_grad()
def drawn(spec: ModelSpec, *, seed: int, device: torch.device, dtype: torch.dtype) -> Any:
    """The model of a spec with every parameter random: nothing is zero, and scores are of order one."""
    made = torch.Generator().manual_seed(seed)
    model: Any = spec.build().eval().requires_grad_(False)
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=made)
        if p.dim() < 2:
            p.add_(0.3 * noise.to(p.dtype))
        else:
            table = name.endswith(".table") or ("embedding" in name and "project" not in name)
            p.copy_(noise if table else noise * p.shape[-1] ** -0.5)
    every = [m for m in model.modules() if isinstance(m, SoftmaxAttention) and m.rule.scale]
    plain = [m for m in every if isinstance(m.q_norm, nn.Identity)]
    for module in {id(m.q.weight): m for m in plain}.values():  # layers may share their weights
        module.q.weight.mul_(module.d_head**-0.5 / module.rule.scale)  # T5 leaves the scale to its weights
    return model.to(device=device, dtype=dtype)


def difference(ours: Sequence[Seen], theirs: Sequence[Seen]) -> float:
    """The largest |a - b| over the largest |b|, of tokens and of wholes; infinite for NaN and for other shapes."""
    worst = 0.0
    for pairs in ([(a.tokens, b.tokens) for a, b in zip(ours, theirs, strict=True)],
                  [(a.whole, b.whole) for a, b in zip(ours, theirs, strict=True) if a.whole is not None]):  # fmt: skip
        scale = max((float(b.abs().max()) for _, b in pairs if b is not None and b.numel()), default=0.0)
        for a, b in pairs:
            assert a is not None and b is not None
            worst = max(worst, relative(a, b, scale))
    return worst


def relative(a: Tensor, b: Tensor, scale: float) -> float:
    """max |a - b| / scale; infinite for NaN and for other shapes."""
    if a.shape != b.shape:
        return float("inf")
    if not a.numel():
        return 0.0
    found = float((a.double() - b.double()).abs().max()) / (scale or 1.0)
    return found if found == found else float("inf")
