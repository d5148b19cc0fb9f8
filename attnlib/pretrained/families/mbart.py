"""mBART: BART with its norms before each sublayer, and a norm after each stack."""

from __future__ import annotations

from attnlib.pretrained.families.bart import Bart
from attnlib.pretrained.seq2seq import Wiring


class MBart(Bart):
    """Liu et al. 2020 (arXiv:2001.08210), Tang et al. 2020 (arXiv:2008.00401)."""

    name = "mbart"
    model_types = ("mbart",)
    architectures = {"MBartForConditionalGeneration": "lm", "MBartModel": "none"}
    uncovered = "the decoder alone, layerdrop, classes and answers (the decoder begins with the language of the source)"
    wiring = Wiring(placement="pre", final_norm=True)
