"""UMT5: mT5 with a table of distances in every layer; scaled as T5 is."""

from __future__ import annotations

from typing import Any

from attnlib.pretrained.families.t5 import T5, classes


class UMT5(T5):
    """Chung et al. 2023 (arXiv:2304.09151)."""

    name = "umt5"
    model_types = ("umt5",)
    prefix = "UMT5"
    architectures = classes(prefix)
    feed_forward = "gated-gelu"
    own_bias = True

    def odd_samples(self, base: dict[str, Any], gated: dict[str, Any]) -> dict[str, tuple[dict[str, Any], tuple[str, ...]]]:
        untied = {**gated, "tie_word_embeddings": False}
        return {"tied": ({**gated, "feed_forward_proj": "relu"}, ()), "untied": (untied, ("lm_head.weight",))}
