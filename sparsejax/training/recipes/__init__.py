"""Recipes: methods that need more from a run than masks.

Pruning at initialization reads data before the first step, retraining reads
another run, pruning with calibration reads both, and Small-Dense changes the
model. A plain `Method` is a recipe that needs none of these.
"""

from sparsejax.training.recipes.calibrated import ria, sparsegpt, wanda
from sparsejax.training.recipes.pruning_at_init import (
  grasp,
  magnitude_init,
  random_init,
  snip,
  synflow,
  taylor,
)
from sparsejax.training.recipes.recipe import (
  InitialMasks,
  MaskInputs,
  ModelSize,
  Recipe,
  SparseNetwork,
  as_recipe,
)
from sparsejax.training.recipes.release import release
from sparsejax.training.recipes.retraining import retrain
from sparsejax.training.recipes.small_dense import small_dense

RECIPES = {
  "snip": snip,
  "grasp": grasp,
  "synflow": synflow,
  "taylor": taylor,
  "random_init": random_init,
  "magnitude_init": magnitude_init,
  "retrain": retrain,
  "wanda": wanda,
  "ria": ria,
  "sparsegpt": sparsegpt,
  "release": release,
  "small_dense": small_dense,
}
"""Recipes that `config.method` can name, in addition to `methods.METHODS`."""

__all__ = [
  "RECIPES",
  "InitialMasks",
  "MaskInputs",
  "ModelSize",
  "Recipe",
  "SparseNetwork",
  "as_recipe",
  "grasp",
  "magnitude_init",
  "random_init",
  "release",
  "retrain",
  "ria",
  "small_dense",
  "snip",
  "sparsegpt",
  "synflow",
  "taylor",
  "wanda",
]
