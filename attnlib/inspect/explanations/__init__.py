"""Explanations: what each token of the input has to do with what a model says. A method is one file; `why` asks it."""

from attnlib.inspect.explanations.chance import Chance
from attnlib.inspect.explanations.flow import Flow
from attnlib.inspect.explanations.gradient_attention import GradientAttention
from attnlib.inspect.explanations.input_x_gradient import InputXGradient
from attnlib.inspect.explanations.integrated_gradients import IntegratedGradients
from attnlib.inspect.explanations.method import Method, Scores, find_method
from attnlib.inspect.explanations.norms import Norms
from attnlib.inspect.explanations.occlusion import Occlusion
from attnlib.inspect.explanations.relevance import AttnLRP
from attnlib.inspect.explanations.result import Explanation
from attnlib.inspect.explanations.rollout import Rollout
from attnlib.inspect.explanations.saliency import Saliency
from attnlib.inspect.explanations.value_zeroing import ValueZeroing
from attnlib.inspect.explanations.why import ask, why

__all__ = [
    "AttnLRP",
    "Chance",
    "Explanation",
    "Flow",
    "GradientAttention",
    "InputXGradient",
    "IntegratedGradients",
    "Method",
    "Norms",
    "Occlusion",
    "Rollout",
    "Saliency",
    "Scores",
    "ValueZeroing",
    "ask",
    "find_method",
    "why",
]
