"""How scores become weights, other than by softmax; each kind a file of its own."""

from attnlib.attention.normalisers import entmax, sigmoid, talking_heads, top_k

__all__ = ["entmax", "sigmoid", "talking_heads", "top_k"]
