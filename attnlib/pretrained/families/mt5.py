"""mT5: T5 1.1 over the words of a hundred languages; what the decoder gives is never scaled."""

from __future__ import annotations

from typing import Any

from attnlib.models.heads import LMHeadSpec
from attnlib.pretrained.families.t5 import T5, classes
from attnlib.pretrained.family import HFConfig


class MT5(T5):
    """Xue et al. 2021 (arXiv:2010.11934)."""

    name = "mt5"
    model_types = ("mt5",)
    prefix = "MT5"
    architectures = classes(prefix)
    feed_forward = "gated-gelu"

    def _vocabulary(self, config: HFConfig) -> dict[str, Any]:
        return {"tied": config.get("tie_word_embeddings", bool, True)}

    def _vocabulary_config(self, head: LMHeadSpec) -> dict[str, Any]:
        return {"tie_word_embeddings": head.tied}

    def odd_samples(self, base: dict[str, Any], gated: dict[str, Any]) -> dict[str, tuple[dict[str, Any], tuple[str, ...]]]:
        return {"untied": ({**gated, "tie_word_embeddings": False}, ("lm_head.weight",)), "tied": (gated, ())}
