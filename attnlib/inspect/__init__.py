"""Seeing what attention did: maps of weights, the page that shows them, figures for papers."""
