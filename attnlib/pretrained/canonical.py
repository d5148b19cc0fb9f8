"""One form for specs that mean the same architecture: `d_head: null` and its value, one block and a pattern of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attnlib.attention.masks import AllOf
from attnlib.attention.softmax import SoftmaxAttentionSpec
from attnlib.models.stack import StackSpec
from attnlib.spec import Spec

# what a trained model no longer needs: a foreign config need not say it
TRAINING = ("init", "dropout", "hidden_dropout", "mlp_dropout")


def canonical(value: Any, d_model: int) -> Any:
    """Plain dicts and tuples, equal where the models are equal; `d_model` is the width that defaults refer to."""
    if isinstance(value, AllOf) and len(value.masks) == 1:
        return canonical(value.masks[0], d_model)
    if isinstance(value, Spec):
        fields = {name: getattr(value, name) for name in type(value).model_fields if name not in TRAINING}
        fields.update(_filled(value, d_model))
        return {"kind": type(value).__name__, **{name: canonical(item, d_model) for name, item in fields.items()}}
    if isinstance(value, tuple):
        return tuple(canonical(item, d_model) for item in value)
    if isinstance(value, Mapping):
        return {key: canonical(item, d_model) for key, item in value.items()}
    return value


def _filled(spec: Spec, d_model: int) -> dict[str, Any]:
    if isinstance(spec, SoftmaxAttentionSpec):
        bias = ("q", "k", "v", "out") if spec.bias is True else spec.bias or ()
        return {
            "num_kv_heads": spec.num_kv_heads or spec.num_heads,
            "d_head": spec.d_head or d_model // spec.num_heads,
            "bias": tuple(sorted(bias)),
            "norm": spec.norm if spec.qk_norm != "none" else None,
            "scores": spec.scores.replace(scale=spec.scores.scale or (spec.d_head or d_model // spec.num_heads) ** -0.5),
        }
    if isinstance(spec, StackSpec):
        layers = spec.layers
        same = all(layer == layers[0] for layer in layers)
        return {"block": layers[0] if same else None, "blocks": () if same else layers, "pattern": ()}
    return {}


def difference(a: Any, b: Any, path: str) -> str | None:
    """The dotted name of the first place where two canonical forms differ, None where they do not."""
    if isinstance(a, dict) and isinstance(b, dict) and a.get("kind") == b.get("kind"):
        for key in a:
            if (found := difference(a[key], b.get(key), f"{path}.{key}")) is not None:
                return found
        return None
    if isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b):
        return next((found for i in range(len(a)) if (found := difference(a[i], b[i], f"{path}.{i}")) is not None), None)
    return None if a == b else path
