"""The built-in models, in Flax Linen, by name.

A factory takes the number of classes; its keyword arguments are the keys of
`config.model`. A model maps float[B, H, W, C] to float32[B, K] logits and
takes `train=` (bool, static).
"""

from collections.abc import Callable

import flax.linen as nn

from sparsejax.models.cnn import CNN, cnn
from sparsejax.models.mlp import MLP, mlp

MODELS: dict[str, Callable[..., nn.Module]] = {"mlp": mlp, "cnn": cnn}

__all__ = ["CNN", "MLP", "MODELS", "cnn", "mlp"]
