"""Sound for models that listen: files read, rates changed, log-mel features made."""

from attnlib.audio.mel import LogMel, mel_filters
from attnlib.audio.resample import resample
from attnlib.audio.wav import read_wav

__all__ = ["LogMel", "mel_filters", "read_wav", "resample"]
