"""One module a family of public checkpoints; each is found by being here."""
