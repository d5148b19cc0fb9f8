"""Rules of generation: one class each, found by its name."""

from attnlib.generate.rules import filters, forced, lengths, repeats, stamps, words
from attnlib.generate.rules.base import Change, Known, Rule, Texts
from attnlib.generate.rules.chain import Chain, folded, ordered

__all__ = ["Chain", "Change", "Known", "Rule", "Texts", "filters", "folded", "forced", "lengths", "ordered", "repeats",
           "stamps", "words"]  # fmt: skip
