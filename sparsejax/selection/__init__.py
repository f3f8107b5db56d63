"""Exact selection of the highest scores, over many leaves at once."""
