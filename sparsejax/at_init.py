"""Pruning at initialization: masks before the first step.

A criterion scores all weights of a network at once, because it evaluates the
loss; the highest scores stay. Several rounds prune a little each and score
again. Pass the result to `sparsify(..., masks=masks)`.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import core, lax
from jaxtyping import Array, Bool, Float, Int, PyTree

from sparsejax.components import arguments, counts, leaves, scopes, trees
from sparsejax.components.leaves import Overrides, Select
from sparsejax.method import Key, Layout, Masks, Scope
from sparsejax.selection import random_bits, search
from sparsejax.selection.packing import packing_for
from sparsejax.updates.pruning import keep_highest

LossFn = Callable[[PyTree, Any], Array]


@runtime_checkable
class NetworkScore(Protocol):
  """How much every weight of a network is worth: higher survives."""

  def __call__(
    self,
    loss_fn: Any,
    params: PyTree,
    batches: PyTree,
    key: Key | None,
    /,
  ) -> PyTree:
    """Returns a tree like `params`: floats, or uint32 ranks, per weight."""
    ...


class NetworkCriterion(NamedTuple):
  """How pruning at initialization scores, and how often.

  Attributes:
    score: scores the network pruned so far.
    rounds: round i of n leaves the fraction (1 - s)^(i / n) of the weights,
      where s is the sparsity.
  """

  score: NetworkScore
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
  """Draws masks before training: the weights with the highest scores stay.

  Args:
    loss_fn: (params, batch) -> the loss, a scalar; it closes over what else it
      needs, such as batch statistics. For `synflow` it returns the outputs
      instead. None for criteria that need no loss. Compiled at every call.
    params: the first weights, any pytree.
    batches: what `loss_fn` is scanned over: a tree whose leaves have a leading
      axis of batches, or an iterator of batches, which are stacked. None for
      criteria that need no data.
    sparsity: fraction of zeros in [0, 1), over all sparse leaves.
    criterion: one of this module; None for `snip`.
    scope: which weights compete.
    select: which leaves are sparse, as in `sparsify`.
    overrides: as in `sparsify`.
    masks: if given, only weights that are active in them compete, `select`
      stays None and the other weights are zeros; not traced.
    key: typed key, for criteria that draw.

  Returns:
    A tree of bool like `params` with exactly the requested number of ones,
    `MaskedNode` at dense leaves, for `sparsify(..., masks=masks)`.

  Raises:
    ValueError: if an argument cannot work; if scores are not finite (outside
      jit, where they can be looked at).

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
  leaves.check_overrides(params, overrides)
  chosen = (
    leaves.select_leaves(params, select)
    if masks is None
    else leaves.sparse_flags(params, masks)
  )
  layout = leaves.layout(params, chosen, overrides)
  if not layout.leaves:
    return layout.masked_tree([])
  first, limits = _first(layout, masks, scope, sparsity)
  rounds = _Rounds(
    criterion,
    layout,
    scope,
    scopes.budget_table(
      scope,
      layout,
      _sparsities(sparsity, criterion.rounds),
      shrinking=True,
      first=limits,
    ),
  )
  found, finite = _compiled(
    functools.partial(_prune_in_rounds, rounds, loss_fn),
    (params, _stacked(batches), first, key),
  )
  _check_finite(layout, finite)
  return layout.masked_tree(found)


class _Rounds(NamedTuple):
  """How to prune; `budgets` is int32[rounds, groups]."""

  criterion: NetworkCriterion
  layout: Layout
  scope: Scope
  budgets: np.ndarray


def _sparsities(sparsity: float, rounds: int) -> tuple[float, ...]:
  between = (1 - (1 - sparsity) ** (i / rounds) for i in range(1, rounds))
  return (*between, sparsity)


def _snip(loss_fn, params, batches, key):
  del key  # Nothing is drawn.
  return _map(
    lambda p, g: jnp.abs(p * g), params, _gradient(loss_fn, params, batches)
  )


def _taylor(loss_fn, params, batches, key):
  del key  # Nothing is drawn.

  def squared(batch):
    grads = jax.grad(loss_fn)(params, batch)
    return _map(lambda p, g: jnp.square(p * g), params, grads)

  return _total(squared, batches)


def _grasp(loss_fn, params, batches, key):
  del key  # Nothing is drawn.
  direction = jax.tree.map(
    lambda p, g: g.astype(p.dtype), params, _gradient(loss_fn, params, batches)
  )

  def curved(batch):
    gradient = jax.grad(loss_fn)
    return jax.jvp(lambda p: gradient(p, batch), (params,), (direction,))[1]

  # The paper removes the highest of minus this.
  return _map(lambda p, h: p * h, params, _total(curved, batches))


def _synflow(loss_fn, params, batches, key):
  del key  # Nothing is drawn.
  with jax.enable_x64(True):

    def wide(x):
      floats = jnp.issubdtype(jnp.result_type(x), jnp.floating)
      return lax.convert_element_type(x, jnp.float64) if floats else x

    def flow(params, batch):
      return jnp.sum(loss_fn(params, batch), dtype=jnp.float64)

    positive = jax.tree.map(lambda p: jnp.abs(wide(p)), params)
    slopes = _total(
      lambda batch: jax.grad(flow)(positive, batch),
      jax.tree.map(wide, batches),
      jnp.float64,
    )
    scores = jax.tree.map(lambda p, g: jnp.abs(p * g), positive, slopes)
    # They may be beyond float32; shares of the largest are not.
    largest = jnp.max(jnp.stack([jnp.max(s) for s in jax.tree.leaves(scores)]))
    return jax.tree.map(
      lambda s: lax.convert_element_type(s / largest, jnp.float32), scores
    )


def _magnitude(loss_fn, params, batches, key):
  del loss_fn, batches, key  # The weights alone decide.
  return _map(jnp.abs, params)


def _random(loss_fn, params, batches, key):
  del loss_fn, batches  # Chance alone decides.
  if key is None:
    raise ValueError(
      "`key` must be given to a criterion that draws at random, got None."
      " Pass key=jax.random.key(0)."
    )
  leaves, treedef = jax.tree.flatten(params)
  bits = [
    jax.random.bits(
      random_bits.leaf_key(key, 0, index, random_bits.FIRST_MASKS),
      leaf.shape,
      jnp.uint32,
    )
    for index, leaf in enumerate(leaves)
  ]
  return jax.tree.unflatten(treedef, bits)


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
"""GraSP: `w (H g)` with `g = dL/dw`: keeps the weights that preserve the gradient flow.

L is the sum of the loss over the batches, as the two halves of the paper's
batch are summed. The paper's loss divides the logits by 200: give one that
does. The paper's code scores dense layers with newly drawn weights (Xavier,
normal), because PyTorch draws them small; we score the weights that train.

References:
  Wang et al., `Picking winning tickets before training by preserving gradient
  flow <https://arxiv.org/abs/2002.07376>`_, 2020, Equation 8.
"""

synflow = NetworkCriterion(_synflow, rounds=100)
"""SynFlow: `|w dR/dw|` of `R`, the sum of the outputs, all weights positive.

It needs no data: one batch of ones. `loss_fn` gives the outputs, as in
evaluation, in the dtype of what it is given: R grows by the width of every
layer, so it is computed in float64 (a network of 40 layers leaves float32).
Inside a jit of your own, networks with max-pooling cannot be scored: jax lowers
its gradient in default types. TPUs compute float64 with the range of float32;
there, deep networks are scored on the CPU, under
`jax.default_device(jax.devices("cpu")[0])`.

References:
  Tanaka et al., `Pruning neural networks without any data by iteratively
  conserving synaptic flow <https://arxiv.org/abs/2006.05467>`_, 2020,
  Algorithm 1.
"""

magnitude = NetworkCriterion(_magnitude)
"""`|w|`, before a single step."""

random = NetworkCriterion(_random)
"""32 random bits per weight, those of random first masks of `sparsify`."""


def _compiled(f: Callable[..., Any], inputs: tuple[Any, ...]) -> Any:
  """Compiles a function and calls it.

  It is lowered with float64 enabled, where `synflow` needs it: JAX writes the
  gradient of max-pooling while it lowers, in default types.
  """
  if any(isinstance(x, core.Tracer) for x in jax.tree.leaves(inputs)):
    return f(*inputs)
  traced = jax.jit(f).trace(*inputs)
  with jax.enable_x64(True):
    compiled = traced.lower().compile()
  return compiled(*inputs)


def _prune_in_rounds(
  rounds: _Rounds, loss_fn, params, batches, first, key
) -> tuple[list[Bool[Array, "..."]], Bool[Array, " leaves"]]:
  """Returns the masks, and for each leaf whether its scores were finite.

  Inactive weights stay so whatever their score, which need not be finite.
  """
  criterion, layout = rounds.criterion, rounds.layout
  budgets = jnp.asarray(rounds.budgets)

  def one(index, carry):
    masks, finite = carry
    left = trees.where(layout.masked_tree(masks), params)
    scores = layout.take(criterion.score(loss_fn, left, batches, key))
    finite &= jnp.stack(list(map(_all_finite, scores, masks)))
    return _keep(rounds, scores, budgets[index], masks), finite

  start = (first, jnp.ones(len(layout.leaves), bool))
  if criterion.rounds == 1:
    return one(0, start)
  return lax.fori_loop(0, criterion.rounds, one, start)


def _keep(
  rounds: _Rounds,
  scores: list[Array],
  budgets: Int[Array, " groups"],
  masks: list[Bool[Array, "..."]],
) -> list[Bool[Array, "..."]]:
  """Returns the masks of the highest scores among the active weights."""
  layout, scope = rounds.layout, rounds.scope
  packed = packing_for(layout, scores)
  rank, valid = packed.pack(scores), packed.pack(masks)
  return packed.unpack(
    keep_highest(scope, layout, packed, rank, budgets, valid)
  )


def _first(
  layout: Layout, masks: Masks | None, scope: Scope, sparsity: float
) -> tuple[list[Array], np.ndarray | None]:
  """Returns the masks to start from, and what they allow each group."""
  if masks is None:
    return [jnp.ones(leaf.shape, bool) for leaf in layout.leaves], None
  nodes = layout.treedef.flatten_up_to(masks)
  first = [jnp.asarray(nodes[leaf.index], bool) for leaf in layout.leaves]
  each_layer = search.each_layer(layout.axes, len(layout.sizes))
  by_layer = np.asarray(search.count_active(first, each_layer), np.int64)
  requested = counts.requested_count(layout.sizes, sparsity)
  if requested > by_layer.sum():
    raise ValueError(
      f"`sparsity` of {sparsity} requests {requested} weights, but `masks` has"
      f" only {by_layer.sum()} active. Raise the sparsity."
    )
  groups = np.asarray(scope.groups(layout))
  limits = np.zeros(groups.max() + 1, np.int64)
  np.add.at(limits, groups, by_layer)
  return first, limits


def _stacked(batches: PyTree | Iterator) -> PyTree:
  """Returns batches with a common leading axis."""
  if isinstance(batches, Iterator):
    batches = list(batches)
    if not batches:
      raise ValueError("`batches` is an iterator that yields none.")
    batches = jax.tree.map(lambda *x: jnp.stack(x), *batches)
  shapes = [np.shape(leaf) for leaf in jax.tree.leaves(batches)]
  if any(shape[:1] != shapes[0][:1] or not shape for shape in shapes):
    raise ValueError(
      "`batches` must have a leading axis of batches, the same in all leaves,"
      f" got shapes {shapes}. Add one: jax.tree.map(lambda x: x[None], batch)."
    )
  return batches


def _gradient(loss_fn: LossFn, params: PyTree, batches: PyTree) -> PyTree:
  """Returns the gradient of the loss summed over the batches."""
  return _total(lambda batch: jax.grad(loss_fn)(params, batch), batches)


def _total(f: Callable, batches: PyTree, dtype: Any = jnp.float32) -> PyTree:
  """Sums a tree-valued function over batches, holding one of them at a time."""
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


def _all_finite(score: Array, on: Bool[Array, "..."]) -> Bool[Array, ""]:
  if not jnp.issubdtype(score.dtype, jnp.inexact):
    return jnp.asarray(True)
  return jnp.all(jnp.isfinite(score) | ~on)


def _check_finite(layout: Layout, finite: Bool[Array, " leaves"]) -> None:
  if isinstance(finite, core.Tracer):
    return
  bad = [
    leaf.name
    for leaf, fine in zip(layout.leaves, np.asarray(finite), strict=True)
    if not fine
  ]
  if bad:
    raise ValueError(
      f"`criterion` gave scores that are not finite in {', '.join(bad)}. Look"
      " at the loss and the weights; the docstring of `synflow` says what helps"
      " in deep networks."
    )
