"""Studies of many runs: comparing, iterative pruning, papers' tables."""
