"""Output heads: from the residual stream to logits or a vector."""

from attnlib.models.heads.base import Head, HeadSpec, LabelledSpec, NoHeadSpec, Place, Readings, chosen, read_head
from attnlib.models.heads.pooled import (
    ClassifyHeadSpec,
    EmbedHeadSpec,
    NextSentenceHeadSpec,
    PooledHead,
    PoolerHeadSpec,
    Pooling,
    Problem,
    pool,
)
from attnlib.models.heads.pretraining import PretrainingHead, PretrainingHeadSpec
from attnlib.models.heads.tokens import RTDHeadSpec, SpanHeadSpec, TagHeadSpec, TokenHead
from attnlib.models.heads.vocabulary import LMHead, LMHeadSpec, MaskedLMHead, MaskedLMHeadSpec, Vocabulary

__all__ = [
    "ClassifyHeadSpec", "EmbedHeadSpec", "Head", "HeadSpec", "LMHead", "LMHeadSpec", "LabelledSpec", "MaskedLMHead",
    "MaskedLMHeadSpec", "NextSentenceHeadSpec", "NoHeadSpec", "Place", "PooledHead", "PoolerHeadSpec", "Pooling",
    "PretrainingHead", "PretrainingHeadSpec", "Problem", "RTDHeadSpec", "Readings", "SpanHeadSpec", "TagHeadSpec",
    "TokenHead", "Vocabulary", "chosen", "pool", "read_head",
]  # fmt: skip
