"""Planted long-range tasks: what each kind of mixer loses is seen where the answer is known."""
