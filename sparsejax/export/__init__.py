"""Sparse networks for other programs: smaller files, and faster layers."""
