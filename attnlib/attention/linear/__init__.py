"""Linear recurrences in place of softmax attention; each kind a file of its own."""

from attnlib.attention.linear import delta, elu, gated, gated_delta, performer, retention, state_space

__all__ = ["delta", "elu", "gated", "gated_delta", "performer", "retention", "state_space"]
