"""Generation and scoring: the same for decoders and encoder-decoders."""

from attnlib.generate.loop import generate, stream
from attnlib.generate.options import Sampling
from attnlib.generate.results import Event, Generation
from attnlib.generate.rules import Rule
from attnlib.generate.score import Score, perplexity, score

__all__ = ["Event", "Generation", "Rule", "Sampling", "Score", "generate", "perplexity", "score", "stream"]
