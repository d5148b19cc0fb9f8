"""Benchmarks: each module measures one thing beside its baseline and yields rows of a table."""
