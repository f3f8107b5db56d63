"""Sparse training in JAX: masks that live in the optax state."""
