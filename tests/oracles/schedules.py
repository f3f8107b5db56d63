"""Sparsity by update index, regrowth fraction by step."""

import math


def cubic(initial, final, i, n):
  """Zhu & Gupta (2017): fast first, slow at the end; exact at i = n."""
  if i >= n:
    return final
  return final + (initial - final) * (1.0 - i / n) ** 3


def sigmoid(alpha):
  """OptG, equation 16: slow, fast, slow; exact at i = n. Starts dense."""

  def curve(initial, final, i, n):
    assert initial == 0.0
    if i >= n:
      return final
    return final / (1.0 + math.exp(-alpha * (i - n / 2)))

  return curve


def cosine_with_floor(initial, final, t, total_steps):
  """GraNet and ITOP: from `initial` at 0 to `final` at `total_steps`."""
  swing = (1.0 + math.cos(math.pi * t / total_steps)) / 2.0
  return final + (initial - final) * swing


def cosine_to_zero(initial, t, end_step):
  """RigL: from `initial` at 0 to 0 at `end_step`."""
  if t >= end_step:
    return 0.0
  return initial / 2.0 * (1.0 + math.cos(math.pi * t / end_step))
