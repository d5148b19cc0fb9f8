"""BERT's head while it is pre-trained: masked tokens and a relation of two texts at once."""

from __future__ import annotations

from torch import Tensor

from attnlib.layout import Layout
from attnlib.models.heads.base import Head, HeadSpec, Place, Readings, chosen
from attnlib.models.heads.pooled import NextSentenceHeadSpec
from attnlib.models.heads.vocabulary import MaskedLMHeadSpec


class PretrainingHead(Head):
    """A token head gives logits, a pooled head text_logits, of one stream."""

    pools = True

    def __init__(self, tokens: Head, text: Head) -> None:
        super().__init__()
        self.tokens, self.text = tokens, text

    def forward(self, x: Tensor, table: Tensor, layout: Layout, at: Place = None) -> Readings:
        whole: Readings = self.text(x, table, layout)
        return Readings(self.tokens(chosen(x, at), table, layout), whole.pooled, whole.logits)


class PretrainingHeadSpec(HeadSpec, kind="pretraining"):
    """BERT's two at once: masked tokens in `logits`, whether the second text follows the first in `text_logits`."""

    tokens: MaskedLMHeadSpec = MaskedLMHeadSpec()
    text: NextSentenceHeadSpec = NextSentenceHeadSpec()

    def build(self, *, d_model: int, vocab_size: int, d_embedding: int) -> Head | None:
        widths = {"d_model": d_model, "vocab_size": vocab_size, "d_embedding": d_embedding}
        tokens, text = self.tokens.build(**widths), self.text.build(**widths)
        assert tokens is not None and text is not None
        return PretrainingHead(tokens, text)
