"""Seeing what attention did: recorded weights and activations, the page that shows them, figures for papers."""

from attnlib.inspect.ablation import ablated, gated
from attnlib.inspect.cost import Cost, Curve, cost
from attnlib.inspect.direct import Attribution, attribution
from attnlib.inspect.heads import HeadReport, HeadScore, head_report
from attnlib.inspect.importance import Importance, importance, text_questions
from attnlib.inspect.lenses import Lens, lens
from attnlib.inspect.maps import AttentionMap
from attnlib.inspect.page import Page
from attnlib.inspect.patching import Patching, patch
from attnlib.inspect.pruning import least_heads, least_units, prune, unit_norms
from attnlib.inspect.recording import Recording, record
from attnlib.inspect.seeing import see
from attnlib.inspect.seen import SeenWeights
from attnlib.inspect.sites import sites, watching
from attnlib.inspect.summaries import Summaries, Summary

__all__ = [
    "AttentionMap",
    "Attribution",
    "Cost",
    "Curve",
    "HeadReport",
    "HeadScore",
    "Importance",
    "Lens",
    "Page",
    "Patching",
    "Recording",
    "SeenWeights",
    "Summaries",
    "Summary",
    "ablated",
    "attribution",
    "cost",
    "gated",
    "head_report",
    "importance",
    "least_heads",
    "least_units",
    "lens",
    "patch",
    "prune",
    "record",
    "see",
    "sites",
    "text_questions",
    "unit_norms",
    "watching",
]
