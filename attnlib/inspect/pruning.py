"""Pruning: a smaller model without some heads and hidden units, equal to the old one with those masked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from attnlib.attention.biases import Shaw, T5Relative
from attnlib.attention.disentangled import Disentangled
from attnlib.attention.scores import Softmax, SoftmaxSink
from attnlib.attention.softmax import SoftmaxAttention
from attnlib.errors import UsageError, nearest
from attnlib.inspect.choice import Names, choose
from attnlib.inspect.pruned_spec import Kept, spec_without
from attnlib.inspect.pruned_weights import bodies, tensors_without
from attnlib.inspect.sites import stacks
from attnlib.nn.feed_forward import Dense, Gated

TERMS = (T5Relative, Shaw, Disentangled)  # those that are known to lose heads
_ATTENTION = {"q", "k", "v", "out", "q_norm", "k_norm", "rule"}  # all that an attention has which pruning knows


def prune(model: Any, *, heads: Names = None, units: Mapping[str, Sequence[int]] | None = None) -> Any:
    """A new model without some heads and hidden units; the old one is not touched. What it says equals masking them.

    heads: as `record` names them: "decoder.3.self.5", patterns, a number for that head of every attention. Heads that
    share keys and values go in equal numbers from each group, or whole groups. units: numbers by feed-forward
    ("decoder.3.mlp"). Layers that become unlike are written as `blocks` with a `pattern`; d_head stays; a learned bias by
    distance that a stack shared becomes one of each layer.
    Raises UsageError where something is not there, where nothing would be left, and for parts that cannot lose heads.
    """
    if model.spec is None:
        raise UsageError("model", "was built without a spec", "pruning writes the spec of what is left")
    kept = _kept(model, heads, units or {})
    spec = spec_without(model.spec, kept)
    with torch.random.fork_rng(devices=[]):  # what is drawn here is overwritten
        smaller: Any = spec.build()
    tensors = tensors_without(model, kept)
    for name, tensor in smaller.state_dict(keep_vars=True).items():
        found = tensors[name]
        assert found.shape == tensor.shape, f"{name}: {tuple(found.shape)} for {tuple(tensor.shape)}"
        tensor.data = found.detach().clone()
        tensor.requires_grad_(found.requires_grad)
    for name, buffer in smaller.named_buffers():  # those that no checkpoint holds
        if name not in tensors:
            buffer.data = model.get_buffer(name).detach().clone()
    for name in ("origin", "generation"):
        if hasattr(model, name):
            setattr(smaller, name, getattr(model, name))
    return smaller.train(model.training)


def least_units(scores: Mapping[str, NDArray[np.float64]], share: float) -> dict[str, tuple[int, ...]]:
    """The share of each feed-forward's hidden units that score least, rounded down; at least one unit stays."""
    if not 0.0 < share < 1.0:
        raise UsageError("units", f"{share} of them are to go", "must lie between 0 and 1")
    found = {}
    for path, row in scores.items():
        count = min(int(share * len(row) + 1e-9), len(row) - 1)
        found[path] = tuple(sorted(np.argsort(row, kind="stable")[:count].tolist()))
    return found


def unit_norms(model: Any) -> dict[str, NDArray[np.float64]]:
    """By feed-forward [F]: length of what a unit writes times that of what it reads, a guess where there is no text."""
    found = {}
    for path, body in _feeds(model).items():
        read = body.up.weight.double().norm(dim=1)
        if isinstance(body, Gated):
            read = read * body.gate.weight.double().norm(dim=1)
        found[path] = np.asarray((read * body.down.weight.double().norm(dim=0)).detach().cpu().numpy())
    return found


def least_heads(model: Any, ranked: Sequence[tuple[str, int, float]], count: int) -> list[str]:
    """`count` heads of the least summed importance, in portions that pruning takes: one head, or one whole group.

    ranked: (path, head, importance) of each head. Some head of each attention stays; fewer are found where the next
    portion would be too large.
    """
    worth = {(path, head): value for path, head, value in ranked}
    portions: list[tuple[float, str, tuple[int, ...]]] = []
    for one in choose(model):
        if type(one.mixer) is not SoftmaxAttention or (one.path, 0) not in worth:
            continue
        heads, groups = (int(getattr(one.mixer, name)) for name in ("num_heads", "num_kv_heads"))
        wide = 1 if groups in (1, heads) else heads // groups
        for first in range(0, heads, wide):
            some = tuple(range(first, first + wide))
            portions.append((sum(worth[one.path, head] for head in some), one.path, some))
    left = {path: sum(1 for _, other, _ in portions if other == path) for path in {path for _, path, _ in portions}}
    found: list[str] = []
    for _, path, some in sorted(portions):
        if left[path] > 1 and len(found) + len(some) <= count:
            found += [f"{path}.{head}" for head in some]
            left[path] -= 1
    return found


# -- what stays -----------------------------------------------------------------------------------------------------------


def _kept(model: Any, heads: Names, units: Mapping[str, Sequence[int]]) -> Kept:
    kept = Kept()
    listed = [heads] if isinstance(heads, int | str) else list(heads or ())
    for one in choose(model, heads=listed) if listed else ():
        _check_attention(one.mixer, one.path)
        kept.heads[one.path], kept.groups[one.path] = _of_groups(one.mixer, one.path, set(one.heads or ()))
    feeds = _feeds(model)
    for path, numbers in units.items():
        if path not in feeds:
            raise UsageError("units", f"{path!r} is no dense or gated feed-forward",
                             f"wish one of {', '.join(feeds) or 'none'}", nearest(path, feeds))  # fmt: skip
        kept.units[path] = _of_units(path, feeds[path].down.in_features, numbers)
    _check_sharing(model, kept)
    return kept


def _check_attention(mixer: Any, path: str) -> None:
    """Raises UsageError where heads cannot go without changing what the others do."""
    if type(mixer) is not SoftmaxAttention:
        raise UsageError(path, f"is a {type(mixer).__name__}", "only the heads of softmax attention can be pruned")
    if not isinstance(mixer.q_norm, nn.Identity) and mixer.q_norm.width != mixer.d_head:
        raise UsageError(path, "norms its queries over all heads at once", "without some the others would change")
    if mixer.mask.by_head():
        raise UsageError(path, "has a mask that goes by the head's number", "which pruning would change")
    parts = [*mixer.rule.terms, mixer.rule.normaliser]
    unknown = [part for part in parts if type(part) not in (*TERMS, Softmax, SoftmaxSink)]
    if unknown:
        raise UsageError(path, f"its {type(unknown[0]).__name__} goes by the number of heads", "which pruning changes")
    others = {name.partition(".")[0] for name, _ in mixer.named_parameters()} - _ATTENTION
    if others:
        raise UsageError(path, f"has {', '.join(sorted(others))}, which pruning does not know", "wish plain attention")


def _of_groups(mixer: Any, path: str, gone: set[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The heads and the groups that stay, each group with as many heads as the others."""
    heads = tuple(head for head in range(mixer.num_heads) if head not in gone)
    if not heads:
        raise UsageError(path, "would have no head left", "wish at least one to stay")
    wide = mixer.num_heads // mixer.num_kv_heads
    left = {group: sum(head // wide == group for head in heads) for group in range(mixer.num_kv_heads)}
    sizes = sorted({count for count in left.values() if count})
    if len(sizes) > 1:
        fact = f"its groups of {wide} heads with shared keys would be left with {' and '.join(map(str, sizes))}"
        raise UsageError(path, fact, "as many must go from each, or whole groups")
    return heads, tuple(group for group, count in left.items() if count)


def _of_units(path: str, count: int, gone: Sequence[int]) -> tuple[int, ...]:
    wrong = [number for number in gone if not 0 <= number < count]
    if wrong:
        raise UsageError(path, f"has no hidden unit {wrong[0]}", f"must lie in 0..{count - 1}")
    units = tuple(number for number in range(count) if number not in set(gone))
    if not units:
        raise UsageError(path, "would have no hidden unit left", "wish at least one to stay")
    return units


def _check_sharing(model: Any, kept: Kept) -> None:
    """Layers with the weights of others must lose the same."""
    for name, stack in stacks(model).items():
        owners: dict[int, str] = {}
        for number, block in enumerate(stack.blocks):
            for part, place in (("attention", "self"), ("cross", "cross"), ("mlp", "mlp")):
                if (sublayer := getattr(block, part)) is None:
                    continue
                path = f"{name}.{number}.{place}"
                owner = owners.setdefault(id(next(sublayer.body.parameters(), sublayer)), path)
                if any(of.get(owner) != of.get(path) for of in (kept.heads, kept.units)):
                    raise UsageError(path, f"has the weights of {owner}", "both must lose the same")


def _feeds(model: Any) -> dict[str, Any]:
    """Every feed-forward that can lose units, by place."""
    return {path: body for path, body in bodies(model) if type(body) in (Dense, Gated)}
