"""Grids of pruning plasticity: prune a run at many moments, and train on."""
