"""Rotary settings as foreign configs spell them: today `rope_parameters`, before `rope_theta` and `rope_scaling`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from attnlib.attention.rotary import Dynamic, Linear, Llama3, LongRope, Rotary, Scaling, Yarn
from attnlib.errors import CheckpointError
from attnlib.pretrained.family import HFConfig

MAX_LENGTH = 2048  # what configs without max_position_embeddings mean
FACTOR, ORIGINAL = "partial_rotary_factor", "original_max_position_embeddings"


def rotary_from(
    config: HFConfig, kind: str | None = None, *, theta: str = "rope_theta", fraction: str | None = None,
    original: str | None = None, spelled: Mapping[str, str] | None = None,
) -> Rotary:  # fmt: skip
    """The rotary of a config, or of its layers of one `kind` (full_attention, sliding_attention).

    theta: the key of the base in files older than `rope_parameters`. fraction: that of the turned part of a head; None
    for models that turn whole heads, where anything else is refused. original: that of the length before scaling, where
    it stands outside and outranks the one within. spelled: older names of scalings and today's.
    """
    scaling = parameters(config, kind)
    if original is not None and config.tree.get(original) is not None:
        scaling = HFConfig({**scaling.tree, ORIGINAL: config.get(original, int)}, scaling.where)
    base = scaling.get("rope_theta", float, config.get(theta, float, 10000.0))
    name = scaling.get("rope_type", str, scaling.get("type", str, "default"))
    name = (spelled or {}).get(name, name)
    if name not in SCALINGS:
        wish = f"wish one of {', '.join(SCALINGS)}"
        raise CheckpointError(f"{scaling.where}: rope_type", f"is {name!r}", wish)
    part = 1.0
    if fraction is None:
        for place in (scaling, config):
            place.only(FACTOR, (1.0,))
    else:
        part = scaling.get(FACTOR, float, config.get(fraction, float, 1.0))
    return Rotary(base=base, fraction=part, scaling=SCALINGS[name](scaling, config))


def parameters(config: HFConfig, kind: str | None = None) -> HFConfig:
    """The settings for layers of one `kind`: those nested under its name, else those for all layers."""
    old = config.below("rope_scaling")
    found = old if old.tree else config.below("rope_parameters")
    nested = [key for key, value in found.tree.items() if isinstance(value, dict)]
    if not nested:
        return found
    if kind is None:
        raise CheckpointError(found.where, f"names {', '.join(nested)}", "wish one setting for all layers")
    return found.below(kind)


def _original(scaling: HFConfig, config: HFConfig) -> int:
    return scaling.get(ORIGINAL, int, _length(config))


def _length(config: HFConfig) -> int:
    return config.get("max_position_embeddings", int, MAX_LENGTH)


def _factor(scaling: HFConfig, config: HFConfig) -> float:
    """Where it is left out, the lengths say it."""
    return scaling.get("factor", float, _length(config) / _original(scaling, config))


def _llama3(scaling: HFConfig, config: HFConfig) -> Scaling:
    return Llama3(
        factor=scaling.get("factor", float),
        low_freq_factor=scaling.get("low_freq_factor", float),
        high_freq_factor=scaling.get("high_freq_factor", float),
        original_length=_original(scaling, config),
    )


def _yarn(scaling: HFConfig, config: HFConfig) -> Scaling:
    factor, given = _factor(scaling, config), scaling.get("attention_factor", float, None)
    part, whole = scaling.get("mscale", float, 0.0), scaling.get("mscale_all_dim", float, 0.0)
    if given is None and part and whole:
        given = _mscale(factor, part) / _mscale(factor, whole)
    return Yarn(
        factor=factor,
        original_length=_original(scaling, config),
        beta_fast=scaling.get("beta_fast", float, 32.0),
        beta_slow=scaling.get("beta_slow", float, 1.0),
        attention_factor=given,
        truncate=scaling.get("truncate", bool, True),
    )


def _mscale(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


def _dynamic(scaling: HFConfig, config: HFConfig) -> Scaling:
    # the original length is not read for this kind
    return Dynamic(factor=scaling.get("factor", float), original_length=_length(config))


def _longrope(scaling: HFConfig, config: HFConfig) -> Scaling:
    return LongRope(
        short_factor=_numbers(scaling, "short_factor"),
        long_factor=_numbers(scaling, "long_factor"),
        original_length=_original(scaling, config),
        factor=_factor(scaling, config),
        attention_factor=scaling.get("attention_factor", float, None),
    )


def _numbers(scaling: HFConfig, key: str) -> tuple[float, ...]:
    found = scaling.get(key, list)
    if not all(type(number) in (int, float) for number in found):
        raise CheckpointError(f"{scaling.where}: {key}", f"is {str(found)[:80]}", "wish numbers")
    return tuple(map(float, found))


SCALINGS: dict[str, Any] = {
    "default": lambda scaling, config: None,
    "linear": lambda scaling, config: Linear(factor=scaling.get("factor", float)),
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
}


def rope_config(rotary: Rotary, where: str, *, partial: bool = False) -> dict[str, Any]:
    """`rope_parameters` and `max_position_embeddings` of a config whose rotary is this one.

    partial: whether this family's configs say that a part of a head is turned.
    """
    if rotary.interleaved or (rotary.fraction != 1.0 and not partial):
        raise CheckpointError(where, "turns part of a head, or pairs of neighbours", "wish whole heads in two halves")
    found: dict[str, Any] = {"rope_theta": rotary.base, **({FACTOR: rotary.fraction} if partial else {})}
    scaling, length = rotary.scaling, MAX_LENGTH
    if scaling is None:
        found["rope_type"] = "default"
    elif isinstance(scaling, Linear):
        found |= {"rope_type": "linear", "factor": scaling.factor}
        length = int(length * scaling.factor)
    elif isinstance(scaling, Dynamic):
        found |= {"rope_type": "dynamic", "factor": scaling.factor}
        length = scaling.original_length
    elif isinstance(scaling, Llama3 | Yarn | LongRope):
        found |= {"rope_type": scaling.kind, "factor": scaling.factor}
        found[ORIGINAL] = scaling.original_length
        length = int(scaling.original_length * scaling.factor)
        found |= {name: _plain(getattr(scaling, name)) for name in OPTIONS[type(scaling)]
                  if getattr(scaling, name) is not None}  # fmt: skip
    else:
        raise CheckpointError(where, f"has the scaling {scaling.kind!r}", f"wish one of {', '.join(SCALINGS)}")
    return {"rope_parameters": found, "max_position_embeddings": length}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


OPTIONS: dict[type[Scaling], tuple[str, ...]] = {
    Llama3: ("low_freq_factor", "high_freq_factor"),
    Yarn: ("beta_fast", "beta_slow", "attention_factor", "truncate"),
    LongRope: ("short_factor", "long_factor", "attention_factor"),
}
