"""Parity: tiny random models of transformers and ours side by side, in both directions, with every figure."""

from attnlib.pretrained.parity.prove import COLUMNS, GATE, GRADIENT_GATE, Row, prove

__all__ = ["COLUMNS", "GATE", "GRADIENT_GATE", "Row", "prove"]
