"""XLM-R: RoBERTa of a hundred languages, under other class names."""

from __future__ import annotations

from attnlib.pretrained.families.roberta import Roberta


class XLMRoberta(Roberta):
    """Conneau et al. 2020 (arXiv:1911.02116)."""

    name = "xlm_roberta"
    model_types = ("xlm-roberta",)
    architectures = {name.replace("Roberta", "XLMRoberta"): kind for name, kind in Roberta.architectures.items()}
