"""Memories: what a method accumulates at every step, beside its masks."""

import jax
import jax.numpy as jnp

from sparsejax.base import Memory

ever_active = Memory(
  init=lambda params, masks: jax.tree.map(jnp.array, masks),
  update=lambda memory, params, grads, masks: jax.tree.map(
    jnp.logical_or, memory, masks
  ),
)
"""Which weights were ever active; their share is the ITOP rate R_s.

References:
  Liu et al., `Do we actually need dense over-parameterization?
  <https://arxiv.org/abs/2102.02887>`_, 2021.
"""
