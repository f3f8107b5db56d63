"""Checkpoints: saving, verifying, selecting and starting from them."""
