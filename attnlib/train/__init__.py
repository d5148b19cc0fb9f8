"""Training: data, objectives, the loop and its checkpoints."""

from attnlib.train.config import Config
from attnlib.train.events import Diverged, Event, Interrupted, Reporter
from attnlib.train.output import checkpoint_of
from attnlib.train.run import TrainResult, train
from attnlib.train.spec import TrainSpec

__all__ = [
    "Config",
    "Diverged",
    "Event",
    "Interrupted",
    "Reporter",
    "TrainResult",
    "TrainSpec",
    "checkpoint_of",
    "train",
]
