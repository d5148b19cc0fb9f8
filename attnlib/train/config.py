"""The whole config of a run: what is trained, on what, how and where."""

from __future__ import annotations

from attnlib.config import FORMAT
from attnlib.models.spec import ModelSpec
from attnlib.runtime import RuntimeSpec
from attnlib.spec import Spec
from attnlib.text.byte_level import Bytes
from attnlib.text.tokenizer import TokenizerSpec
from attnlib.train.data import Data
from attnlib.train.spec import TrainSpec


class Config(Spec):
    """A config file of a run; `train` and `data` are what `attnlib.train.train` needs beyond a model."""

    format: int = FORMAT
    model: ModelSpec
    tokenizer: TokenizerSpec = Bytes()
    data: Data
    train: TrainSpec
    runtime: RuntimeSpec = RuntimeSpec()
