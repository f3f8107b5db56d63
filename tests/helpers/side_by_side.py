"""A method of the library and its oracle, run side by side.

The library is compiled without optimization. Optimized, XLA fuses a product
and a sum into one rounding, and op by op it still does so inside the
conditional that guards a mask update; it also makes of a division by a scalar
a product with its inverse. The last bit of a weight then differs from numpy's.
Without optimization each operation rounds on its own, so masks, held weights
and statistics must equal the oracle's in every bit at every step.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from oracles import network

import sparsejax
from sparsejax.state import unit_masks

STEPS = 72
# `conftest.py` asks for less than users get; later there are no other emitters.
_EMITTERS = (
  {"xla_cpu_use_fusion_emitters": True}
  if jax.__version_info__ < (0, 11)
  else {}
)
OPTIMIZED = {"xla_backend_optimization_level": 3, **_EMITTERS}
ROUND_EACH_OPERATION = {
  "xla_backend_optimization_level": 0,
  "xla_disable_hlo_passes": "algsimp",
  **_EMITTERS,
}


class Optimizer(NamedTuple):
  """One inner optimizer, as the oracle's and as optax's."""

  oracle: Any
  optax: optax.GradientTransformation


def momentum_sgd():
  """Nesterov momentum with coupled weight decay."""
  sgd = network.MomentumSGD(learning_rate=0.1, momentum=0.9, weight_decay=0.01)
  return Optimizer(
    sgd,
    optax.chain(
      optax.add_decayed_weights(sgd.weight_decay),
      optax.sgd(sgd.learning_rate, momentum=sgd.momentum, nesterov=True),
    ),
  )


def adamw():
  """Adam with decoupled weight decay."""
  adam = network.AdamW(learning_rate=0.03, weight_decay=0.1)
  return Optimizer(
    adam, optax.adamw(adam.learning_rate, weight_decay=adam.weight_decay)
  )


# Networks and gradients


def random_tree(seed):
  """Convolutions, dense layers, biases and what only looks sparse.

  Weights and gradients lie on coarse grids, so that ties and exact zeros are
  common; one layer is dead: equal magnitudes and never a gradient. The shapes
  do not depend on the seed, so that all cases share what JAX compiles.
  """
  values = np.random.default_rng(seed)
  a, b, c = (int(width) for width in np.random.default_rng(0).integers(3, 9, 3))

  def grid(*shape):
    return (values.integers(-24, 25, shape) / 32).astype(np.float32)

  return {
    "conv-1": {"kernel": grid(3, 3, a, b), "bias": grid(b)},
    "conv": {"kernel": grid(1, 1, b, c), "norm": {"scale": grid(1, 2, 2, c)}},
    "dead": {"kernel": np.full((b, c), 0.5, np.float32)},
    "embed": {"embedding": grid(5, c)},
    "head": [{"kernel": grid(4 * c, 14), "bias": grid(14)}],
    "row": {"kernel": grid(1, 14)},
  }


def plain_layers(count, seed):
  """Dense layers without ties, in tree order."""
  values = np.random.default_rng(seed)
  return {
    f"layer_{i}": values.normal(size=(4, 4 + i)).astype(np.float32)
    for i in range(count)
  }


def named(tree):
  pairs, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf
    for path, leaf in pairs
  }


def gradients_at(seed, call, sparse_weights):
  """Dense gradients: a function of the call and of the held weights."""
  rng = np.random.default_rng([seed, call])
  return {
    name: np.zeros_like(weights)
    if name.startswith("dead")
    else _rounded(rng.normal(size=weights.shape) + 0.2 * weights)
    for name, weights in sparse_weights.items()
  }


def _rounded(values):
  return (np.round(np.asarray(values) * 16) / 16).astype(np.float32)


# Two runs side by side


class Case(NamedTuple):
  """A method and its oracle.

  Attributes:
    name: of the test.
    method: the library's method.
    oracle: (leaves, optimizer, key) -> what steps the leaves, a field `leaves`
      and a field `t` in it.
    densities: shapes -> densities of random first masks, or None.
    changes: how often masks change at least.
  """

  name: str
  method: Any
  oracle: Callable
  densities: Callable | None = None
  changes: int = 5


def oracle_run(case, tree, key, optimizer=None):
  """The oracle at its first masks."""
  leaves = network.make_leaves(named(tree))
  if case.densities is not None:
    sparse = network.sparse_leaves(leaves)
    shapes = [leaf.weights.shape for leaf in sparse]
    network.sample_initial_masks(sparse, case.densities(shapes), key)
  return case.oracle(leaves, (optimizer or momentum_sgd()).oracle, key)


class LibraryRun:
  """The loop that a user writes."""

  def __init__(
    self,
    case,
    tree,
    key,
    optimizer=None,
    compiler_options=ROUND_EACH_OPERATION,
  ):
    inner = (optimizer or momentum_sgd()).optax
    tx = sparsejax.sparsify(inner, case.method, key=key)
    params = jax.tree.map(jnp.asarray, tree)
    self.update = jax.jit(tx.update, compiler_options=compiler_options)
    self.update_masks = jax.jit(
      tx.update_masks, compiler_options=compiler_options
    )
    self.state = jax.jit(tx.init, compiler_options=compiler_options)(params)
    self.params = sparsejax.apply_masks(params, self.state)

  def step(self, gradients, **extra):
    grads = jax.tree.unflatten(
      jax.tree.structure(self.params),
      [jnp.asarray(gradient) for gradient in gradients.values()],
    )
    updates, self.state = self.update(grads, self.state, self.params, **extra)
    self.params = optax.apply_updates(self.params, updates)

  def between_steps(self, **extra):
    self.params, self.state = self.update_masks(
      self.params, self.state, **extra
    )

  @property
  def sparse_weights(self):
    return {name: np.asarray(x) for name, x in named(self.params).items()}

  @property
  def masks(self):
    return {name: np.asarray(x) for name, x in named(self.state.masks).items()}

  @property
  def latent(self):
    return {name: np.asarray(x) for name, x in named(self.state.latent).items()}

  def inner_value(self, name):
    """What the inner optimizer keeps under this name, by leaf."""
    values = optax.tree.get(self.state.inner_state, name)
    return {name: np.asarray(x) for name, x in named(values).items()}


def assert_equal(
  oracle, library, weights_of=lambda leaf: leaf.sparse_weights, **tolerance
):
  """Masks in every bit, all values too unless there is a tolerance."""
  assert int(library.state.step) == oracle.t
  masks, sparse_weights = library.masks, library.sparse_weights
  latent = library.latent
  inner_state = {name: library.inner_value(name) for name in oracle.sgd.names}
  sparse = network.sparse_leaves(oracle.leaves)
  assert list(masks) == [leaf.name for leaf in sparse]
  assert latent.keys() <= masks.keys()
  for leaf in oracle.leaves:
    where = f"{leaf.name} at step {oracle.t}"
    if leaf.mask is not None:
      np.testing.assert_array_equal(masks[leaf.name], leaf.mask, where)
      off = sparse_weights[leaf.name][~leaf.mask]
      np.testing.assert_array_equal(off, np.zeros_like(off), where)
    assert_close(
      sparse_weights[leaf.name], weights_of(leaf), f"held {where}", **tolerance
    )
    if leaf.name in latent:
      found = latent[leaf.name]
      assert_close(found, leaf.weights, f"latent {where}", **tolerance)
    for name, values in inner_state.items():
      assert_close(
        values[leaf.name],
        leaf.inner_value(name),
        f"{name} of {where}",
        **tolerance,
      )


def assert_close(found, expected, where, rtol=0.0, atol=0.0):
  """Equal in every bit but the sign of zero, unless there is a tolerance."""
  np.testing.assert_allclose(
    found, expected, rtol=rtol, atol=atol, err_msg=where
  )


def assert_requested(library):
  """The masks have as many ones as the state says were requested.

  Masks of units are counted where there are some.
  """
  shared, *layers = library.state.requested.tolist()
  masks = unit_masks(library.state) or library.masks.values()
  counts = [int(mask.sum()) for mask in masks]
  together = sum(c for c, k in zip(counts, layers, strict=True) if k < 0)
  assert together == shared
  assert all(c == k for c, k in zip(counts, layers, strict=True) if k >= 0)


def check_first_gradients(
  case, tree, seed, period, comparison=lambda oracle: assert_equal, **options
):
  """The first gradient of a period is taken at its masks, as the oracle does.

  Args:
    case: what is run.
    tree: the first parameters.
    seed: of the masks and the gradients.
    period: steps from one mask update to the next.
    comparison: oracle -> what `run_side_by_side` compares with.
    **options: of `run_side_by_side`.
  """
  key = jax.random.key(seed)
  oracle = oracle_run(case, tree, key)
  changed = run_side_by_side(
    oracle,
    LibraryRun(case, tree, key),
    seed,
    compare=comparison(oracle),
    between_steps=True,
    **options,
  )
  assert len(changed) >= case.changes
  assert all(call % period == 0 for call in changed)


def run_side_by_side(
  oracle,
  library,
  seed,
  spoil=lambda call, gradients, masks: None,
  compare=assert_equal,
  extra=lambda call: {},
  between_steps=False,
):
  """Compares after every call; returns the calls at which masks changed.

  Args:
    oracle: at its first masks, as `oracle_run` gives it.
    library: likewise.
    seed: of the gradients.
    spoil: changes the gradients of a call in place.
    compare: raises where the two differ.
    extra: call -> keyword arguments that both take next to the gradients.
    between_steps: whether masks are updated before the gradient is taken; it is
      then that of the new masks, taken by the oracle and the library each at
      their own weights.
  """
  compare(oracle, library)
  assert_requested(library)
  changed = []
  for call in range(STEPS):
    old = library.masks
    if between_steps:
      oracle.between_steps(**extra(call))
      library.between_steps(**extra(call))
      compare(oracle, library)
    gradients = gradients_at(seed, call, library.sparse_weights)
    spoil(call, gradients, old)
    held = {leaf.name: leaf.sparse_weights for leaf in oracle.leaves}
    at_oracle = gradients_at(seed, call, held) if between_steps else gradients
    oracle.step(list(at_oracle.values()), **extra(call))
    library.step(gradients, **extra(call))
    compare(oracle, library)
    assert_requested(library)
    if any((old[n] != new).any() for n, new in library.masks.items()):
      changed.append(call)
  return changed
