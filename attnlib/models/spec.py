"""What every kind of model says of itself."""

from __future__ import annotations

from pydantic import Field
from torch import nn

from attnlib.models.heads import HeadSpec, NoHeadSpec
from attnlib.nn.embeddings import EmbeddingSpec
from attnlib.nn.init import Init, Normal
from attnlib.spec import Spec


class ModelSpec(Spec, slot="model"):
    """A model: widths, embedding, stacks and head. `build` makes it; on the meta device it costs nothing."""

    d_model: int = Field(ge=1)
    vocab_size: int = Field(ge=1)
    embedding: EmbeddingSpec = EmbeddingSpec()
    init: Init = Normal()
    head: HeadSpec = NoHeadSpec()

    def build(self) -> nn.Module:
        raise NotImplementedError
