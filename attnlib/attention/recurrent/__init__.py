"""Recurrent networks in place of softmax attention; each kind a file of its own."""

from attnlib.attention.recurrent import gru, lstm, min_gru

__all__ = ["gru", "lstm", "min_gru"]
