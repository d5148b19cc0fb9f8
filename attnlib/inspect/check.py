"""check: what must not change a model's output does not, on a model of any config."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attnlib.attention.scope import standing_at_the_door
from attnlib.errors import AttnlibError, LayoutError
from attnlib.generate.prompts import vocab_of
from attnlib.inspect.backends import BackendDoor
from attnlib.inspect.describe import longest
from attnlib.inspect.subject import Seen, Subject, Text, difference, drawn
from attnlib.layout import Layout
from attnlib.models.spec import ModelSpec

BOUNDS = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 1e-1, torch.float16: 2e-2}
KERNELS = {torch.float64: 1e-10, torch.float32: 2e-5, torch.bfloat16: 5e-2, torch.float16: 5e-3}
SENSITIVE = 1e-4
TOKENS, MOST = 13, 48  # checked by default; up to MOST where a window asks for more


@dataclass(frozen=True)
class Finding:
    """One check: its figure against its bound. figure None: it does not apply, `note` says why."""

    name: str
    figure: float | None
    bound: float
    note: str = ""
    least: bool = False  # the figure must reach the bound rather than stay below it

    @property
    def ok(self) -> bool:
        if self.figure is None:
            return True
        return self.figure >= self.bound if self.least else self.figure <= self.bound

    def __str__(self) -> str:
        if self.figure is None:
            return f"-     {self.name:40} {self.note}"
        sign = "at least" if self.least else "at most"
        text = f"{'ok' if self.ok else 'FAIL':5} {self.name:40} {self.figure:<9.2g} {sign} {self.bound:g}"
        return f"{text}  {self.note}".rstrip()


class NotApplicable(Exception):
    """Raised by a check that means nothing for this model."""


def check(
    spec: ModelSpec,
    *,
    tokens: int | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float64,
    kernels: torch.dtype | None = None,
) -> Iterator[Finding]:
    """The findings, one by one as they are made, on a model of `spec` with random weights.

    Differences are the largest |a - b| over the largest |b| of all logits (without a token head: of the last stream).
    dtype: of the model; kernels: of the backends, by default that of the model, float32 for float64.
    Raises LayoutError for more tokens than the model has positions for.
    """
    tokens = checked_tokens(spec, tokens)
    kernels = kernels or (torch.float32 if dtype == torch.float64 else dtype)
    device = torch.device(device)
    subject = Subject(drawn(spec, seed=seed, device=device, dtype=dtype), tokens, device, dtype)
    bound = BOUNDS[dtype]
    yield _found("sensitive to every kind of input", SENSITIVE, lambda: _sensitivity(subject), least=True)
    yield from _rows(subject, bound)
    yield from _caches(subject, bound)
    yield _found("causal leakage by gradient", 0.0, lambda: _leakage(subject))
    yield _found("leakage between packed texts", 0.0, lambda: _packed_leakage(subject))
    yield from _backends(subject, kernels)
    yield from _round_trip(subject, spec, bound)


def checked_tokens(spec: ModelSpec, tokens: int | None) -> int:
    """How many tokens to check with: those given, or enough to pass the end of a small window."""
    most = longest(spec)
    if tokens is not None:
        if most is not None and tokens > most:
            raise LayoutError("tokens", f"are {tokens}", f"the model's positions end at {most}")
        if tokens < 4:
            raise LayoutError("tokens", f"are {tokens}", "must be at least 4")
        return tokens
    ends = [last + 6 for last in windows(spec) if last + 6 <= MOST]
    return min(max([TOKENS, *ends]), most or MOST)


def windows(spec: ModelSpec) -> list[int]:
    """How far back each bounded mask of the model sees."""
    from attnlib.attention.masks import Mask
    from attnlib.models.stack import StackSpec

    stacks = [value for name in type(spec).model_fields if isinstance(value := getattr(spec, name), StackSpec)]
    masks = [mask for s in stacks for b in s.layers if isinstance(mask := getattr(b.attention, "mask", None), Mask)]
    return sorted({last for mask in masks if (last := mask.keeps().last) is not None})


def _found(name: str, bound: float, figure: Callable[[], float], *, least: bool = False) -> Finding:
    """A finding of what `figure` computes; an error in it is a failure, for what is checked may not raise."""
    try:
        return Finding(name, figure(), bound, least=least)
    except NotApplicable as reason:
        return Finding(name, None, bound, str(reason))
    except Exception as error:
        words = str(error) if isinstance(error, AttnlibError) else f"{type(error).__name__}: {error}"
        return Finding(name, float("-inf") if least else float("inf"), bound, (words.splitlines() or [""])[0])


def _texts(s: Subject) -> list[Text]:
    """Rows of unlike lengths."""
    n = s.tokens
    return [s.text(length, seed) for seed, length in enumerate((n, max(n // 2, 1), 3, 1))]


def _sensitivity(s: Subject) -> float:
    """How much another token changes the outputs of others, and, for an encoder-decoder, one of the source: the less."""
    text = s.text(s.tokens, 1)
    was = s.alone(text).tokens

    def moved(ids: list[int], source: list[int] | None, places: range) -> float:
        now = s.alone(Text(ids, source)).tokens
        return difference([Seen(now[[*places]])], [Seen(was[[*places]])])

    def changed(ids: list[int], place: int, vocab: int) -> list[int]:
        return [(t + 1) % vocab if i == place else t for i, t in enumerate(ids)]

    vocab, last = vocab_of(s.model), s.tokens - 1  # two places: a mask in chunks may end between a token and the next
    found = max(moved(changed(text.ids, i, vocab), text.source, range(i + 1, s.tokens)) for i in (last - 1, last - 2))
    if text.source is None:
        return found
    source = changed(text.source, 0, vocab_of(s.model, source=True))
    return min(found, moved(text.ids, source, range(s.tokens)))


def _rows(s: Subject, bound: float) -> Iterator[Finding]:
    texts = _texts(s)
    alone: list[Seen] = []

    def base(texts: list[Text]) -> list[Seen]:
        return [s.alone(text) for text in texts]

    def padded(side: str) -> float:
        if not alone:
            alone.extend(base(texts))
        return difference(s.together(texts, side, s.tokens + 2), alone)

    equal = [s.text(s.tokens, seed) for seed in range(10, 13)]
    yield _found("batch = alone", bound, lambda: difference(s.together(equal), base(equal)))
    yield _found("padding on the right = alone", bound, lambda: padded("right"))
    yield _found("padding on the left = alone", bound, lambda: padded("left"))
    few = texts[1:]
    rows = [[few[0], few[1]], [few[2], few[1], few[1]]]
    flat = [text for row in rows for text in row]
    yield _found("packed = separate", bound, lambda: difference(s.packed(rows, 2), [Seen(one.tokens) for one in base(flat)]))


def _caches(s: Subject, bound: float) -> Iterator[Finding]:
    if not s.cached:
        yield Finding("cache = no cache", None, bound, "an encoder keeps no cache")
        return
    if (path := s.sees_ahead()) is not None:
        yield Finding("cache = no cache", None, bound, f"{path} sees tokens to come")
        return
    alone: dict[int, list[Seen]] = {}

    def figure(cache: str, chunk: int) -> float:
        worst = 0.0
        for number, texts in enumerate(([s.text(s.tokens, 20), s.text(s.tokens, 21)], _texts(s))):
            if number and chunk == 1:  # of ragged rows chunks of 3 tell as much
                continue
            if number not in alone:
                alone[number] = [Seen(s.alone(text).tokens) for text in texts]
            worst = max(worst, difference(s.stepped(texts, cache, chunk), alone[number]))
        return worst

    for cache in ("growing", "rolling", "static"):
        for chunk, named in ((1, "1"), (3, "3"), (s.tokens, "all")):
            name = f"cache {cache}, chunks of {named} = no cache"
            yield _found(name, bound, lambda cache=cache, chunk=chunk: figure(cache, chunk))  # type: ignore[misc]


def _leakage(s: Subject) -> float:
    """The largest gradient of an output by the embedding of a later token."""
    if not s.cached:
        raise NotApplicable("an encoder may see everything")
    if (path := s.sees_ahead()) is not None:
        raise NotApplicable(f"{path} sees tokens to come")
    text = s.text(s.tokens, 30)
    x, leaves = _by_embeddings(s, [text], Layout.dense(1, s.tokens), Layout.dense(1, len(text.source or "x")))
    direction = torch.randn(x.shape[-1], generator=torch.Generator().manual_seed(4)).to(x)
    worst = 0.0
    places = sorted({0, 1, s.tokens // 2, s.tokens - 2})
    for place in places:
        (found,) = torch.autograd.grad(x[0, place] @ direction, leaves[:1], retain_graph=True)
        if not float(found[0, place].abs().max()):
            raise ArithmeticError(f"no gradient reaches token {place} itself")
        worst = max(worst, _largest(found[0, place + 1 :]))
    return worst


def _packed_leakage(s: Subject) -> float:
    """The largest gradient of a text's outputs by the embeddings of the other text in its row, or of its padding."""
    n = max(s.tokens // 2, 2)
    texts = [s.text(n, 31), s.text(s.tokens - n, 32)]
    lengths, sources = [len(t.ids) for t in texts], [len(t.source or ()) for t in texts]
    x, leaves = _by_embeddings(s, texts, Layout.packed([lengths], s.tokens + 1),
                               Layout.packed([sources], s.tokens + 1) if s.both else None)  # fmt: skip
    direction = torch.randn(x.shape[-1], generator=torch.Generator().manual_seed(4)).to(x)
    worst = 0.0
    for first in (True, False):
        own = slice(0, n) if first else slice(n, s.tokens)
        found = torch.autograd.grad((x[0, own] @ direction).sum(), leaves, retain_graph=True)
        for gradient, width in zip(found, (n, sources[0])):
            worst = max(worst, _largest(gradient[0, width:] if first else gradient[0, :width]))
        worst = max(worst, _largest(found[0][0, s.tokens :]))
    return worst


def _largest(x: Tensor) -> float:
    if not x.numel():
        return 0.0
    found = float(x.abs().max())
    return found if found == found else float("inf")


def _by_embeddings(s: Subject, texts: list[Text], layout: Layout, sources: Layout | None) -> tuple[Tensor, list[Tensor]]:
    """Outputs [B, T, F] as a function of embeddings, and these: of the tokens, and of the source."""
    model: Any = s.model
    table = (getattr(model, "decoder_embedding", None) or model.embedding).token.weight.detach()
    embeds = table[s._ids([t.ids for t in texts], layout)].requires_grad_()
    layout = layout.to(s.device)
    with torch.enable_grad():
        if not s.both:
            out, leaves = model(None, layout, embeds=embeds), [embeds]
        else:
            assert sources is not None
            source = s.source_embeds(texts, sources).requires_grad_()
            out = model(None, None, sources.to(s.device), layout, embeds=source, decoder_embeds=embeds)
            leaves = [embeds, source]
    return (out.logits if s.over_tokens else out.last), leaves


def _backends(s: Subject, dtype: torch.dtype) -> Iterator[Finding]:
    door = BackendDoor(dtype)
    texts = _texts(s)
    try:
        with standing_at_the_door(door):
            door.situation = "full batch"
            s.together(texts[:1] * 2)
            door.situation = "padded on the left"
            s.together(texts, "left", s.tokens + 2)
            door.situation = "packed"
            s.packed([texts[1:3], texts[2:]], 1)
            if s.cached and s.sees_ahead() is None:
                door.situation = "decode step"
                s.stepped(texts[:1] * 2, "growing", s.tokens - 1)
    except Exception as error:
        yield Finding("backends", float("inf"), 0.0, f"{type(error).__name__}: {error}".splitlines()[0])
    name = str(dtype).removeprefix("torch.")
    for backend in sorted({*door.worst, *door.refusals}):
        worst, refused = door.worst.get(backend), door.refusals.get(backend, {})
        for words, where in (worst.failures if worst else {}).items():
            yield Finding(f"{backend} {name}", float("inf"), 0.0, f"{words} ({where})")
        if worst is not None and worst.calls:
            yield Finding(f"{backend} {name} = reference float64", worst.forward, KERNELS[dtype], f"{worst.calls} calls")
        if worst is not None and worst.gradients:
            note = f"{worst.gradients} calls"
            yield Finding(f"{backend} {name}, gradients", worst.backward, 4 * KERNELS[dtype], note)
        for reason, where in refused.items():
            yield Finding(f"{backend} refuses", None, 0.0, f"{reason} ({where})")


def _round_trip(s: Subject, spec: ModelSpec, bound: float) -> Iterator[Finding]:
    """Parameters equal to the last bit after saving and loading; outputs as near as rounding, for memory lies otherwise."""
    from attnlib.pretrained import load, save

    loaded: Any = None

    def parameters() -> float:
        nonlocal loaded
        with tempfile.TemporaryDirectory() as place:
            save(s.model, Path(place) / "model")
            loaded = load(Path(place) / "model", device=s.device, verify=True)
        ours, theirs = s.model.state_dict(), loaded.state_dict()
        if loaded.spec != spec or ours.keys() != theirs.keys():
            raise ArithmeticError("another spec, or other parameters, were read")
        return max((_largest(ours[name].double() - theirs[name].double()) for name in ours), default=0.0)

    def output() -> float:
        text = s.text(s.tokens, 40)
        return difference([Subject(loaded, s.tokens, s.device, s.dtype).alone(text)], [s.alone(text)])

    yield _found("parameters saved and loaded", 0.0, parameters)
    if loaded is not None:
        yield _found("output of what was loaded", bound, output)
