"""The trainer: input, training step, loop, checkpoints and records."""
