"""Training: data, objectives, the loop and its checkpoints."""

from attnlib.train.config import Config
from attnlib.train.events import Diverged, Event, Interrupted, Reporter
from attnlib.train.run import TrainResult, checkpoint_of, train
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
