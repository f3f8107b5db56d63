"""The trainer: build, mesh, step, loop, checkpoints, records."""
