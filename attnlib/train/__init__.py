"""Training: data, objectives, the loop and its checkpoints."""
