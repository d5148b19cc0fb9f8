"""explain: layer by layer the mask, the backend that runs it, and why the others do not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from attnlib.attention.backends.choose import choose, refusals
from attnlib.attention.backends.protocol import AttentionCall, Backend
from attnlib.attention.masks import AllOf, AnyOf, Mask, Not, picture
from attnlib.attention.products import Product
from attnlib.attention.scope import Door, standing_at_the_door
from attnlib.attention.visibility import Visibility
from attnlib.errors import LayoutError
from attnlib.inspect.approximation import MOST, approximations
from attnlib.inspect.describe import advance, blank_source
from attnlib.layout import Layout
from attnlib.models.encoder_decoder import EncoderDecoder
from attnlib.models.spec import ModelSpec
from attnlib.nn.meta import on_meta

PICTURED = 12  # most tokens of a drawn mask


@dataclass(frozen=True)
class Choice:
    """One attention in one situation: the backend that runs and, for each other, why not.

    Of a mixer that asks no backend: what it says it runs, and no others.
    """

    path: str
    situation: str
    chosen: str
    others: Mapping[str, str]


@dataclass(frozen=True)
class Place:
    """One attention: its mask and score rule in words."""

    path: str
    heads: str
    mask: Mask
    rule: str


@dataclass(frozen=True)
class Explanation:
    """What runs where, for every attention of a model."""

    header: str
    places: tuple[Place, ...]
    choices: tuple[Choice, ...]
    away: Mapping[str, float] = field(default_factory=dict)  # paths of what approximates -> how far it is from that
    tokens: int = 0

    def of(self, path: str) -> tuple[Choice, ...]:
        """The choices of one attention."""
        return tuple(choice for choice in self.choices if choice.path == path)

    def text(self) -> str:
        """For people; attentions that are alike and follow each other are told together."""
        lines, told = [self.header], list[list[Place]]()
        for place in self.places:
            if told and self._alike(told[-1][0], place):
                told[-1].append(place)
            else:
                told.append([place])
        for group in told:
            lines += ["", *self._lines(group)]
        return "\n".join(lines)

    def _alike(self, a: Place, b: Place) -> bool:
        ours, theirs = (tuple(replace(c, path="") for c in self.of(p.path)) for p in (a, b))
        alike = replace(a, path="") == replace(b, path="") and self.away.get(a.path) == self.away.get(b.path)
        return alike and ours == theirs

    def _lines(self, group: list[Place]) -> Iterator[str]:
        first = group[0]
        names = first.path if len(group) == 1 else f"{first.path} .. {group[-1].path} ({len(group)} alike)"
        yield f"{names}: {first.heads}, {first.rule}" if first.rule else f"{names}: {first.heads}"
        yield f"  mask {words(first.mask)}"
        yield from ("    " + row for row in picture(first.mask, PICTURED).split("  "))
        if (away := self.away.get(first.path)) is not None:
            yield f"  approximates: {away:.2g} away from exact attention with the same projections"
            yield f"    (relative; {min(self.tokens, MOST)} tokens, weights and texts drawn at random)"
        for choice in self.of(first.path):
            yield f"  {choice.situation}: {choice.chosen}"
            yield from (f"    {name:10} {why}" for name, why in choice.others.items())


def explain(
    spec: ModelSpec,
    *,
    tokens: int = 128,
    batch: int = 2,
    train: bool = False,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    backend: str = "auto",
) -> Explanation:
    """Which backend every attention of the model would get, for full, padded and packed batches and a decode step.

    The model is built on the meta device; backends are asked with tensors of the right shapes on `device`, so nothing is
    computed, but that what approximates attention is compared with it, one layer of a kind. `train`: with gradients and
    dropout. Raises LayoutError for more tokens than the model has positions for.
    """
    with on_meta():
        model: Any = spec.build().to(dtype).train(train)
    if model.max_length is not None and tokens > model.max_length:
        raise LayoutError("tokens", f"are {tokens}", f"the model's positions end at {model.max_length}")
    watcher = _Watcher(torch.device(device), backend)
    for mixer in (module for module in model.modules() if hasattr(module, "in_words")):
        mixer.register_forward_hook(watcher.passed, with_kwargs=True)
    with torch.set_grad_enabled(train), standing_at_the_door(watcher):
        for situation, layout in _situations(batch, tokens):
            watcher.begin(situation, layout)
            _run(model, layout.to("meta"))
        if hasattr(model, "begin") and not train:
            _decode(model, watcher, batch, tokens)
    mode = "training" if train else "inference"
    header = f"{type(spec).kind}, {batch} x {tokens} tokens, {str(dtype).removeprefix('torch.')} on {device}, {mode}"
    away = approximations(spec, tokens)
    return Explanation(header, tuple(watcher.places.values()), tuple(watcher.choices), away, tokens)


def words(mask: Mask) -> str:
    """A mask as one would write it: causal & window(before=128)."""
    if isinstance(mask, AllOf | AnyOf):
        sign = " & " if isinstance(mask, AllOf) else " | "
        return sign.join(f"({words(m)})" if isinstance(m, AllOf | AnyOf) else words(m) for m in mask.masks)
    if isinstance(mask, Not):
        return f"~{words(mask.mask)}" if not isinstance(mask.mask, AllOf | AnyOf) else f"~({words(mask.mask)})"
    fields = ((name, getattr(mask, name)) for name in type(mask).model_fields)
    said = ((name, ", ".join(map(words, value)) if name == "masks" else value) for name, value in fields)
    inner = ", ".join(f"{name}={value}" if name != "masks" else f"{value}" for name, value in said if value is not None)
    name = mask.kind or type(mask).__name__
    return f"{name}({inner})" if inner else name


class _Watcher(Door):
    """Stands at the door of a model on the meta device and asks the backends as if it were on `device`."""

    def __init__(self, device: torch.device, backend: str) -> None:
        self.device, self.backend = device, backend
        self.places: dict[str, Place] = {}
        self.choices: list[Choice] = []
        self.situation, self.there = "", Layout.dense(1, 1, device=device)

    def begin(self, situation: str, layout: Layout) -> None:
        self.situation, self.there = situation, layout.to(self.device)

    def __call__(self, path: str, q: Tensor, k: Tensor, v: Tensor, call: AttentionCall, run: Callable[[], Tensor]) -> Tensor:
        self.places.setdefault(path, _place(path, q, k, call))
        grad = torch.is_grad_enabled()
        there = [torch.empty(t.shape, dtype=t.dtype, device=self.device, requires_grad=grad) for t in (q, k, v)]
        real = _on_device(call, self)
        chosen = choose(there[0], there[1], there[2], real, self.backend)
        why = refusals(there[0], there[1], there[2], real)
        able = {name: reason or _unwanted(name, chosen.name, there, real) for name, reason in why.items()}
        others = {name: reason for name, reason in able.items() if name != chosen.name}
        apart = any((c.path, c.situation) == (path, self.situation) for c in self.choices)  # as global tokens are
        situation = f"{self.situation}, {q.shape[2]} of its queries apart" if apart else self.situation
        self.choices.append(Choice(path, situation, chosen.name, others))
        return q.new_empty(*q.shape[:3], v.shape[3])

    def passed(self, mixer: Any, given: tuple[Any, ...], named: dict[str, Any], y: Tensor) -> None:
        """A mixer that asks no backend has run."""
        how = mixer.how(given[1], named.get("memory"), named.get("cache"))
        self.places.setdefault(mixer.path, Place(mixer.path, mixer.in_words, mixer.mask, ""))
        self.choices.append(Choice(mixer.path, self.situation, how, {}))

    def real(self, layout: Layout) -> Layout:
        """The same layout where it can be read."""
        return layout.readable(self._laid)

    def _laid(self, layout: Layout) -> Layout:
        if layout.is_dense and layout.start is not None:
            return Layout.dense(layout.batch, layout.tokens, start=layout.start, device=self.device)
        return self.there


def _on_device(call: AttentionCall, watcher: _Watcher) -> AttentionCall:
    sight = call.visibility
    q = watcher.real(sight.q)
    k = q if sight.k is sight.q else watcher.real(sight.k)
    return call.over(Visibility(sight.mask, q, k, sight.heads))


def _unwanted(name: str, chosen: str, given: list[Tensor], call: AttentionCall) -> str:
    """Why a backend that could is not chosen."""
    backend = Backend.known()[name]
    if backend.automatic is None:
        return "can, on request only"
    return f"can, {chosen} comes first" if backend.suits(given[0], given[1], given[2], call) else "can, suits less here"


def _place(path: str, q: Tensor, k: Tensor, call: AttentionCall) -> Place:
    grouped = "" if q.shape[1] == k.shape[1] else f" over {k.shape[1]} key-value heads"
    rule = [f"scale {call.rule.scale:.4g}", *([f"softcap {call.rule.softcap:g}"] if call.rule.softcap else [])]
    if type(call.rule.product) is not Product:
        rule.append(type(call.rule.product).__name__)
    rule += [type(term).__name__ for term in call.terms]
    rule += sorted(call.parts - {"softcap", "term"})
    heads = f"{q.shape[1]} heads of {q.shape[3]}{grouped}"
    return Place(path, heads, call.visibility.mask, ", ".join(rule))


def _situations(batch: int, tokens: int) -> Iterator[tuple[str, Layout]]:
    yield "full batch", Layout.dense(batch, tokens)
    if tokens > 1:
        half = tokens // 2
        yield "padded batch", Layout.from_lengths([tokens, *[half] * max(batch - 1, 1)], tokens)
        yield "packed batch", Layout.packed([[half, tokens - half]] * batch, tokens)


def _run(model: Any, layout: Layout) -> None:
    ids = torch.zeros(layout.batch, layout.tokens, dtype=torch.long, device="meta")
    if isinstance(model, EncoderDecoder):
        front = model.features
        embeds = None if front is None else torch.zeros(*ids.shape, front.d_model, device="meta")
        model(ids if embeds is None else None, ids, layout, layout, embeds=embeds, head=False)
    else:
        model(ids, layout, head=False)


def _decode(model: Any, watcher: _Watcher, batch: int, tokens: int) -> None:
    """One token after a growing cache of the others."""
    ids = torch.zeros(batch, tokens, dtype=torch.long, device="meta")
    watcher.begin("prompt", Layout.dense(batch, tokens))
    kept = list(watcher.choices)
    state = model.begin(blank_source(model, ids), batch=batch)
    if tokens > 1:
        advance(model, ids[:, 1:], state)
    watcher.choices = kept
    watcher.begin("decode step", Layout.dense(batch, tokens))
    advance(model, ids[:, :1], state)
