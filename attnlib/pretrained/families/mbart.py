"""mBART: BART with its norms before each sublayer, and a norm after each stack."""

from __future__ import annotations

from attnlib.pretrained.families.bart import Bart


class MBart(Bart):
    """Liu et al. 2020 (arXiv:2001.08210), Tang et al. 2020 (arXiv:2008.00401).

    Its classes for whole texts begin the decoder with the source's last token and read another than the last: left out.
    """

    name = "mbart"
    model_types = ("mbart",)
    architectures = {"MBartForConditionalGeneration": "lm", "MBartModel": "none"}
    placement = "pre"
    final_norm = True
