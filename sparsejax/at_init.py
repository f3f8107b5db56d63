"""Pruning at initialization: masks before the first step.

A criterion scores all weights of a network at once; the highest scores survive.
With several rounds, each prunes a part and the rest is scored again. Pass the
result to `sparsify(..., masks=masks)`.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import core, lax
from jaxtyping import Array, Bool, Float, PyTree

from sparsejax.components import (
  arguments,
  counts,
  leaves,
  scopes,
  trees,
  wide_counts,
)
from sparsejax.components.leaves import Overrides, Select
from sparsejax.method import Key, Layout, Masks, Scope
from sparsejax.selection import counting, random_bits
from sparsejax.selection.groups import each_layer
from sparsejax.selection.packing import packing_for
from sparsejax.updates.pruning import keep_highest

LossFn = Callable[[PyTree, Any], Array]


class Network(NamedTuple):
  """What a criterion scores.

  Attributes:
    loss_fn: (params, batch) -> the loss; None where none is given.
    params: with zeros at inactive weights.
    batches: tree with a leading axis of batches, or None.
    masks: tree of bool like `params`, the weights that compete; `MaskedNode` at
      dense leaves.
    key: typed key, or None.
  """

  loss_fn: Any
  params: PyTree
  batches: PyTree
  masks: Masks
  key: Key | None = None


class NetworkCriterion(NamedTuple):
  """How pruning at initialization scores, and how often.

  Attributes:
    score: (network pruned so far) -> a tree like its parameters, per weight a
      float or a uint32 rank; higher survives.
    rounds: round i of n leaves the fraction (1 - s)^(i / n) of the weights,
      where s is the sparsity.
  """

  score: Callable[[Network], PyTree]
  rounds: int = 1


def prune_at_init(
  loss_fn: LossFn | None,
  params: PyTree,
  batches: PyTree,
  sparsity: float,
  *,
  criterion: NetworkCriterion | None = None,
  scope: Scope = scopes.global_scope,
  select: Select = None,
  overrides: Overrides | None = None,
  masks: Masks | None = None,
  key: Key | None = None,
) -> Masks:
  """Returns masks of the weights with the highest scores before training.

  Args:
    loss_fn: (params, batch) -> the loss, a scalar; it closes over what else it
      needs, such as batch statistics. For `synflow` it returns the outputs
      instead. None for criteria that need no loss. Compiled at every call.
    params: the initial weights, any pytree.
    batches: what `loss_fn` is scanned over: a tree whose leaves have a leading
      axis of batches, or an iterator of batches, which are stacked. None for
      criteria that need no data.
    sparsity: fraction of zeros in [0, 1), over all sparse leaves.
    criterion: one of this module; None for `snip`.
    scope: which weights compete.
    select: which leaves are sparse, as in `sparsify`.
    overrides: as in `sparsify`.
    masks: only active weights of these compete, and the others count as 0;
      not traced, and without `select`. None for all weights.
    key: typed key, for random criteria.

  Returns:
    A tree of bool like `params` with exactly the requested number of ones,
    `MaskedNode` at dense leaves, for `sparsify(..., masks=masks)`.

  Raises:
    ValueError: if an argument cannot work, or scores are not finite (checked
      outside jit only).

  Examples:
    >>> import jax, jax.numpy as jnp, sparsejax
    >>> params = {"kernel": jnp.arange(1.0, 13.0).reshape(3, 4)}
    >>> loss = lambda params, x: jnp.sum((x @ params["kernel"]) ** 2)
    >>> masks = sparsejax.prune_at_init(loss, params, jnp.ones((1, 2, 3)), 0.75)
    >>> masks["kernel"].astype(int).tolist()
    [[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 1]]
  """
  arguments.check_sparsity(sparsity)
  criterion = snip if criterion is None else criterion
  if criterion.rounds < 1:
    raise ValueError(f"`rounds` must be at least 1, got {criterion.rounds}.")
  if masks is not None and select is not None:
    raise ValueError("`select` must be None where `masks` is given.")
  layout = leaves.find_layout(params, select, overrides, masks)
  if not layout.leaves:
    return layout.masked_tree([])
  first, limits = _first(layout, masks, scope, sparsity)
  n = criterion.rounds
  partial = (1 - (1 - sparsity) ** (i / n) for i in range(1, n))
  budgets = scopes.budget_table(
    scope, layout, (*partial, sparsity), shrinking=True, first=limits
  )
  prune = _pruner(criterion, layout, scope, budgets, loss_fn)
  found, finite = _call_compiled(prune, params, _stacked(batches), first, key)
  _check_finite(layout, finite)
  return layout.masked_tree(found)


def _snip(network):
  grads = _gradient(network)
  return _map(lambda p, g: jnp.abs(p * g), network.params, grads)


def _taylor(network):
  def squared(batch):
    grads = jax.grad(network.loss_fn)(network.params, batch)
    return _map(lambda p, g: jnp.square(p * g), network.params, grads)

  return _total(squared, network.batches)


def _grasp(network):
  params = network.params
  # The gradient flow of the weights that compete: both official codes leave
  # biases and normalization out of the direction, and of the sum.
  direction = trees.map_masked(
    lambda mask, p, g: jnp.where(mask, g, 0).astype(p.dtype),
    network.masks,
    params,
    _gradient(network),
    dense=lambda p, g: jnp.zeros_like(p),
  )

  def hessian_product(batch):
    def gradient(params):
      return jax.grad(network.loss_fn)(params, batch)

    return jax.jvp(gradient, (params,), (direction,))[1]

  # The paper removes the highest of minus this.
  total = _total(hessian_product, network.batches)
  return _map(lambda p, h: p * h, params, total)


def _synflow(network):
  with jax.enable_x64(True):

    def wide(x):
      floats = jnp.issubdtype(jnp.result_type(x), jnp.floating)
      return lax.convert_element_type(x, jnp.float64) if floats else x

    def flow(params, batch):
      return jnp.sum(network.loss_fn(params, batch), dtype=jnp.float64)

    positive = jax.tree.map(lambda p: jnp.abs(wide(p)), network.params)
    slopes = _total(
      lambda batch: jax.grad(flow)(positive, batch),
      jax.tree.map(wide, network.batches),
      jnp.float64,
    )
    scores = jax.tree.map(lambda p, g: jnp.abs(p * g), positive, slopes)
    # They may overflow float32; their ratios to the largest do not.
    largest = jnp.max(jnp.stack([jnp.max(s) for s in jax.tree.leaves(scores)]))
    return jax.tree.map(
      lambda s: lax.convert_element_type(s / largest, jnp.float32), scores
    )


def _random(network):
  if network.key is None:
    raise ValueError(
      "`key` must be given for a random criterion, got None."
      " Pass key=jax.random.key(0)."
    )

  def bits(index, x):
    key = random_bits.leaf_key(network.key, 0, index, random_bits.FIRST_MASKS)
    return jax.random.bits(key, x.shape, jnp.uint32)

  arrays, treedef = jax.tree.flatten(network.params)
  return treedef.unflatten(map(bits, range(len(arrays)), arrays))


snip = NetworkCriterion(_snip)
"""SNIP: `|w dL/dw|`, how much the loss depends on a weight's presence.

The gradient is summed over the batches. The paper divides by the sum of all
scores, which changes no rank.

References:
  Lee et al., `SNIP: single-shot network pruning based on connection
  sensitivity <https://arxiv.org/abs/1810.02340>`_, 2019, Equation 5.
"""

taylor = NetworkCriterion(_taylor)
"""Taylor-FO: `(w dL/dw)^2`, summed over the batches.

The square of the change of the loss, to first order, when a weight is removed.
With one batch it ranks as `snip` does.

References:
  Molchanov et al., `Importance estimation for neural network pruning
  <https://arxiv.org/abs/1906.10771>`_, 2019, Equation 8.
"""

grasp = NetworkCriterion(_grasp)
"""GraSP: `w (H g)` with `g = dL/dw`, to preserve the gradient flow.

H and g are those of the weights that compete, without biases and other dense
leaves, as in both official codes. L is the sum of the loss over the batches, as
the two halves of the paper's batch are summed. The paper's loss divides the
logits by 200; do so in `loss_fn`. The paper's code scores dense layers at newly
sampled weights (Xavier, normal), because PyTorch's are small; we score the
weights that train.

References:
  Wang et al., `Picking winning tickets before training by preserving gradient
  flow <https://arxiv.org/abs/2002.07376>`_, 2020, Equation 8.
"""

synflow = NetworkCriterion(_synflow, rounds=100)
"""SynFlow: `|w dR/dw|` of `R`, the sum of the outputs, all weights positive.

It needs no data: one batch of ones. `loss_fn` returns the outputs, as in
evaluation, in the dtype of its inputs: R grows by the width of every layer, so
it is computed in float64 (a network of 40 layers overflows float32). Inside
your own jit, networks with max-pooling cannot be scored: jax lowers its
gradient in default types. On TPUs float64 has the range of float32; score deep
networks on the CPU, under `jax.default_device(jax.devices("cpu")[0])`.

References:
  Tanaka et al., `Pruning neural networks without any data by iteratively
  conserving synaptic flow <https://arxiv.org/abs/2006.05467>`_, 2020,
  Algorithm 1.
"""

magnitude = NetworkCriterion(lambda network: _map(jnp.abs, network.params))
"""`|w|` at initialization."""

random = NetworkCriterion(_random)
"""32 random bits per weight, those of random first masks of `sparsify`."""


def _call_compiled(f: Callable[..., Any], *inputs: Any) -> Any:
  """Calls a function, compiled with float64 enabled at lowering.

  `synflow` needs that: JAX writes the gradient of max-pooling while it lowers,
  in default types.
  """
  if any(isinstance(x, core.Tracer) for x in jax.tree.leaves(inputs)):
    return f(*inputs)
  traced = jax.jit(f).trace(*inputs)
  with jax.enable_x64(True):
    compiled = traced.lower().compile()
  return compiled(*inputs)


def _pruner(
  criterion: NetworkCriterion, layout: Layout, scope: Scope, budgets, loss_fn
) -> Callable[..., tuple[list[Array], Array]]:
  """Returns (params, batches, first masks, key) -> masks, finite.

  `budgets` is int64[rounds, groups]. `finite` is bool[leaves], whether the
  scores of active weights were finite; inactive weights stay so at any score.
  """

  def prune(params, batches, first, key):
    table = wide_counts.on_device(budgets, counts.limbs_of_all(layout))

    def one_round(index, carry):
      masks, finite = carry
      pruned = trees.where(layout.masked_tree(masks), params)
      network = Network(
        loss_fn, pruned, batches, layout.masked_tree(masks), key
      )
      scores = layout.take(criterion.score(network))
      pairs = zip(scores, masks, strict=True)
      finite &= jnp.stack([jnp.all(jnp.isfinite(s) | ~m) for s, m in pairs])
      packed = packing_for(layout)
      rank, valid = packed.pack(scores), packed.pack(masks)
      kept = keep_highest(scope, layout, packed, rank, table[index], valid)
      return packed.unpack(kept), finite

    start = (first, jnp.ones(len(layout.leaves), bool))
    if criterion.rounds == 1:
      return one_round(0, start)
    return lax.fori_loop(0, criterion.rounds, one_round, start)

  return prune


def _first(
  layout: Layout, masks: Masks | None, scope: Scope, sparsity: float
) -> tuple[list[Array], np.ndarray | None]:
  """Returns the masks to start from, and their counts by group."""
  if masks is None:
    return [jnp.ones(leaf.shape, bool) for leaf in layout.leaves], None
  nodes = layout.treedef.flatten_up_to(masks)
  first = [jnp.asarray(nodes[leaf.index], bool) for leaf in layout.leaves]
  groups = each_layer(layout.axes, layout.sizes, sharded=layout.sharded)
  by_layer = np.asarray(counting.count_active(first, groups), np.int64)
  requested = counts.requested_count(layout.sizes, sparsity)
  if requested > by_layer.sum():
    raise ValueError(
      f"`sparsity` of {sparsity} requests {requested} weights, but `masks` has"
      f" only {by_layer.sum()} active. Raise the sparsity."
    )
  groups = scopes.groups_of(scope, layout)
  return first, np.bincount(groups, by_layer).astype(np.int64)


def _stacked(batches: PyTree | Iterator) -> PyTree:
  """Returns batches with a common leading axis."""
  if isinstance(batches, Iterator):
    batches = list(batches)
    if not batches:
      raise ValueError("`batches` is an iterator that yields none.")
    batches = jax.tree.map(lambda *x: jnp.stack(x), *batches)
  shapes = [np.shape(leaf) for leaf in jax.tree.leaves(batches)]
  if any(not shape or shape[0] != shapes[0][0] for shape in shapes):
    raise ValueError(
      "`batches` must have a leading axis of batches, the same in all leaves,"
      f" got shapes {shapes}. Add one: jax.tree.map(lambda x: x[None], batch)."
    )
  return batches


def _gradient(network: Network) -> PyTree:
  """Returns the gradient of the loss summed over the batches."""
  return _total(
    lambda batch: jax.grad(network.loss_fn)(network.params, batch),
    network.batches,
  )


def _total(f: Callable, batches: PyTree, dtype: Any = jnp.float32) -> PyTree:
  """Sums a tree-valued function over batches, one batch at a time."""
  if not jax.tree.leaves(batches):
    raise ValueError(
      "`batches` must be given to a criterion that needs the loss, got"
      f" {batches!r}."
    )

  def add(total, batch):
    return jax.tree.map(lambda t, x: t + x.astype(dtype), total, f(batch)), None

  one = jax.eval_shape(f, jax.tree.map(lambda x: x[0], batches))
  zero = jax.tree.map(lambda x: jnp.zeros(x.shape, dtype), one)
  return lax.scan(add, zero, batches)[0]


def _map(f: Callable[..., Float[Array, "..."]], *like: PyTree) -> PyTree:
  """Maps a function of float32 leaves."""
  return jax.tree.map(lambda *x: f(*(y.astype(jnp.float32) for y in x)), *like)


def _check_finite(layout: Layout, finite: Bool[Array, " leaves"]) -> None:
  if isinstance(finite, core.Tracer):
    return
  pairs = zip(layout.leaves, np.asarray(finite), strict=True)
  bad = [leaf.name for leaf, is_finite in pairs if not is_finite]
  if bad:
    raise ValueError(
      f"`criterion` gave scores that are not finite in {', '.join(bad)}. Check"
      " the loss and the weights; for deep networks see the docstring of"
      " `synflow`."
    )
