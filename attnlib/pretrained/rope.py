"""Rotary settings as foreign configs spell them: today `rope_parameters`, before `rope_theta` and `rope_scaling`."""

from __future__ import annotations

import math
from typing import Any

from attnlib.attention.rotary import Dynamic, Linear, Llama3, Rotary, Scaling, Yarn
from attnlib.errors import CheckpointError
from attnlib.pretrained.family import HFConfig

MAX_LENGTH = 2048  # what configs without max_position_embeddings mean


def rotary_from(config: HFConfig) -> Rotary:
    """The rotary of a config; a kind of scaling that we do not know is refused."""
    theta, scaling = config.rope()
    scaling.only("partial_rotary_factor", (1.0,))
    kind = scaling.get("rope_type", str, scaling.get("type", str, "default"))
    if kind not in SCALINGS:
        wish = f"wish one of {', '.join(SCALINGS)}"
        raise CheckpointError(f"{scaling.where}: rope_type", f"is {kind!r}", wish)
    return Rotary(base=theta, scaling=SCALINGS[kind](scaling, config))


def _original(scaling: HFConfig, config: HFConfig) -> int:
    return scaling.get("original_max_position_embeddings", int, config.get("max_position_embeddings", int, MAX_LENGTH))


def _llama3(scaling: HFConfig, config: HFConfig) -> Scaling:
    return Llama3(
        factor=scaling.get("factor", float),
        low_freq_factor=scaling.get("low_freq_factor", float),
        high_freq_factor=scaling.get("high_freq_factor", float),
        original_length=_original(scaling, config),
    )


def _yarn(scaling: HFConfig, config: HFConfig) -> Scaling:
    factor, given = scaling.get("factor", float), scaling.get("attention_factor", float, None)
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
    length = config.get("max_position_embeddings", int, MAX_LENGTH)  # the original length is not read for this kind
    return Dynamic(factor=scaling.get("factor", float), original_length=length)


SCALINGS: dict[str, Any] = {
    "default": lambda scaling, config: None,
    "linear": lambda scaling, config: Linear(factor=scaling.get("factor", float)),
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
}


def rope_config(rotary: Rotary, where: str) -> dict[str, Any]:
    """`rope_parameters` and `max_position_embeddings` of a config whose rotary is this one."""
    if rotary.interleaved or rotary.fraction != 1.0:
        raise CheckpointError(where, "turns part of a head, or pairs of neighbours", "wish whole heads in two halves")
    found: dict[str, Any] = {"rope_theta": rotary.base}
    scaling, length = rotary.scaling, MAX_LENGTH
    if scaling is None:
        found["rope_type"] = "default"
    elif isinstance(scaling, Linear):
        found |= {"rope_type": "linear", "factor": scaling.factor}
        length = int(length * scaling.factor)
    elif isinstance(scaling, Dynamic):
        found |= {"rope_type": "dynamic", "factor": scaling.factor}
        length = scaling.original_length
    elif isinstance(scaling, Llama3 | Yarn):
        found |= {"rope_type": scaling.kind, "factor": scaling.factor}
        found["original_max_position_embeddings"] = scaling.original_length
        length = int(scaling.original_length * scaling.factor)
        names = ("low_freq_factor", "high_freq_factor") if isinstance(scaling, Llama3) else YARN
        found |= {name: getattr(scaling, name) for name in names if getattr(scaling, name) is not None}
    else:
        raise CheckpointError(where, f"has the scaling {scaling.kind!r}", f"wish one of {', '.join(SCALINGS)}")
    return {"rope_parameters": found, "max_position_embeddings": length}


YARN = ("beta_fast", "beta_slow", "attention_factor", "truncate")
