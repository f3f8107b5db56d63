"""What the methods that need more than a `Method` ask of a run.

Pruning at initialisation looks at data before the first step, retraining at an
earlier run, and a small dense network changes the model. A `Plan` has a slot
for each; a plain `Method` is a plan without them.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from sparsejax import at_init, methods
from sparsejax.components import scopes
from sparsejax.data import Split, batches
from sparsejax.method import Method, Scope
from sparsejax.selection import search
from sparsejax.training import step


class Found(NamedTuple):
  """What an earlier run ended with.

  Attributes:
    params: its sparse network.
    masks: its masks, `MaskedNode` at dense leaves.
  """

  params: Any
  masks: Any


class View(NamedTuple):
  """What first masks may look at; all of it lies in this process.

  Attributes:
    setup: static.
    weights: those that the run starts from.
    examples: batches of the train split without end, of a given size, each
      epoch in a random order of its own.
    train_examples: number of examples of the train split.
    image_shape: H, W, C.
    key: typed key to draw from.
    found: of an earlier run, where there is one.
    select: which leaves are sparse, as `sparsify` takes it.
    overrides: as `sparsify` takes it.
  """

  setup: step.Setup
  weights: step.Weights
  examples: Callable[[int], Iterator[Split]]
  train_examples: int
  image_shape: tuple[int, ...]
  key: jax.Array
  found: Found | None
  select: Any
  overrides: Any


class Size(NamedTuple):
  """Counts a model, from shapes alone.

  Attributes:
    sparse: a module -> weights of its sparse leaves.
    parameters: a module -> all of its parameters.
  """

  sparse: Callable[[nn.Module], int]
  parameters: Callable[[nn.Module], int]


@runtime_checkable
class First(Protocol):
  """Draws the masks of step 0."""

  def __call__(self, view: View, /) -> Any:
    """Returns a tree for `sparsify(..., masks=...)`."""
    ...


@runtime_checkable
class Model(Protocol):
  """Chooses the model."""

  def __call__(
    self,
    make: Callable[..., nn.Module],
    size: Size,
    /,
  ) -> nn.Module:
    """Returns `make(**changes)`, changes of the config's model."""
    ...


def as_configured(make: Callable[..., nn.Module], size: Size) -> nn.Module:
  """Takes the model of the config."""
  del size  # It is what it is.
  return make()


class Plan(NamedTuple):
  """What a method asks of a run.

  Attributes:
    method: how masks change while the run trains.
    first: draws the first masks; `None` leaves them to the method.
    model: chooses the model.
    retrains: whether the masks come from the run in `config.init_from`.
    stands_for: the sparsity of the network that a dense one is compared with.
  """

  method: Method
  first: First | None = None
  model: Model = as_configured
  retrains: bool = False
  stands_for: float | None = None


def plan_of(made: Method | Plan) -> Plan:
  """Returns the plan of what a factory made."""
  return made if isinstance(made, Plan) else Plan(made)


def snip(
  sparsity: float,
  *,
  scope: Scope = scopes.global_scope,
  batches: int = 1,
  batch_size: int = 128,
) -> Plan:
  """Keeps what the loss feels most, then trains it: `at_init.snip`.

  Args:
    sparsity: fraction of zeros in [0, 1).
    scope: who competes with whom.
    batches: how many the gradient is summed over (the paper: 1).
    batch_size: of each (the paper: 128 on CIFAR).

  Returns:
    The plan.
  """
  return _pruned(
    at_init.snip, sparsity, scope, data=shuffled(batches, batch_size)
  )


def taylor(
  sparsity: float,
  *,
  scope: Scope = scopes.global_scope,
  batches: int = 8,
  batch_size: int = 128,
) -> Plan:
  """Keeps what changes the loss of batches most: `at_init.taylor`.

  Args:
    sparsity: fraction of zeros in [0, 1).
    scope: who competes with whom.
    batches: how many squares are summed; with 1 it is `snip`.
    batch_size: of each.

  Returns:
    The plan.
  """
  return _pruned(
    at_init.taylor, sparsity, scope, data=shuffled(batches, batch_size)
  )


def grasp(
  sparsity: float,
  *,
  classes: int,
  scope: Scope = scopes.global_scope,
  samples_per_class: int = 10,
  temperature: float = 200.0,
) -> Plan:
  """Keeps what keeps the gradient flowing: `at_init.grasp`.

  Args:
    sparsity: fraction of zeros in [0, 1).
    classes: K, of the data.
    scope: who competes with whom.
    samples_per_class: examples of each class, in two halves; even.
    temperature: what the logits are divided by.

  Returns:
    The plan.
  """
  return _pruned(
    at_init.grasp,
    sparsity,
    scope,
    data=balanced(classes, samples_per_class, halves=2),
    loss=functools.partial(cross_entropy, temperature=float(temperature)),
  )


def synflow(
  sparsity: float,
  *,
  scope: Scope = scopes.global_scope,
  rounds: int = 100,
) -> Plan:
  """Keeps what lets the network flow, without data: `at_init.synflow`.

  Args:
    sparsity: fraction of zeros in [0, 1).
    scope: who competes with whom.
    rounds: scores are taken so often.

  Returns:
    The plan.
  """
  if rounds < 1:
    raise ValueError(f"`rounds` must be at least 1, got {rounds}.")
  criterion = at_init.synflow._replace(rounds=rounds)
  return _pruned(
    criterion, sparsity, scope, data=ones, loss=outputs, trains=False
  )


def magnitude_init(
  sparsity: float, *, scope: Scope = scopes.global_scope
) -> Plan:
  """Keeps the largest first weights.

  Args:
    sparsity: fraction of zeros in [0, 1).
    scope: who competes with whom.

  Returns:
    The plan.
  """
  return _pruned(at_init.magnitude, sparsity, scope, data=ones)


def random_init(sparsity: float, *, scope: Scope = scopes.global_scope) -> Plan:
  """Keeps weights at random, from all layers together.

  Args:
    sparsity: fraction of zeros in [0, 1).
    scope: who competes with whom; with a distribution it is `static`.

  Returns:
    The plan.
  """
  return _pruned(at_init.random, sparsity, scope, data=ones)


def retrain(
  sparsity: float | None = None, *, scope: Scope = scopes.global_scope
) -> Plan:
  """Trains the mask of an earlier run again, or a part of it.

  Args:
    sparsity: fraction of zeros in [0, 1), not below that of the mask: of its
      weights those stay that the earlier run made largest, as in a round of
      iterative magnitude pruning. None takes the mask as it is.
    scope: who competes with whom.

  Returns:
    The plan.

  References:
    Frankle & Carbin, `The lottery ticket hypothesis
    <https://arxiv.org/abs/1803.03635>`_, 2019; Renda et al., `Comparing
    rewinding and fine-tuning <https://arxiv.org/abs/2003.02389>`_, 2020.
  """
  return Plan(
    methods.dense() if sparsity is None else methods.static(sparsity),
    first=functools.partial(_found, sparsity=sparsity, scope=scope),
    retrains=True,
  )


def small_dense(sparsity: float, *, count_masks: bool = True) -> Plan:
  """A dense network, so narrow that it is as large as the sparse one would be.

  Args:
    sparsity: fraction of zeros of the network that it stands for, in [0, 1).
    count_masks: whether that one's masks count, a bit for each weight, beside
      32 bits for each parameter.

  Returns:
    The plan.

  References:
    Evci et al., `Rigging the lottery <https://arxiv.org/abs/1911.11134>`_,
    2020, Section 4.1.
  """
  methods.static(sparsity)  # Refuses what is no sparsity.
  return Plan(
    methods.dense(),
    model=functools.partial(_narrow, sparsity=sparsity, mask_bits=count_masks),
    stands_for=sparsity,
  )


METHODS = {
  "snip": snip,
  "grasp": grasp,
  "synflow": synflow,
  "taylor": taylor,
  "random_init": random_init,
  "magnitude_init": magnitude_init,
  "retrain": retrain,
  "small_dense": small_dense,
}
"""The names that a config knows, beside those of `methods`."""

# Data to score on: a view -> normalized inputs [n, B, H, W, C], labels [n, B]
Data = Callable[[View], tuple[jax.Array, jax.Array]]
# The loss to score by: logits, labels -> a scalar
Loss = Callable[[jax.Array, jax.Array], jax.Array]


def shuffled(count: int, size: int) -> Data:
  """The first batches of a random order.

  Args:
    count: number of batches, at least 1.
    size: examples of each, at least 1; the train split bounds it.
  """
  if min(count, size) < 1:
    raise ValueError(
      f"`batches` and `batch_size` must be at least 1, got {count}, {size}."
    )

  def take(view: View) -> tuple[jax.Array, jax.Array]:
    found = list(itertools.islice(view.examples(size), count))
    return _inputs(view, jax.tree.map(lambda *x: np.stack(x), *found))

  return take


def balanced(classes: int, per_class: int, *, halves: int) -> Data:
  """As many examples of every class, each class split evenly into batches.

  Args:
    classes: K.
    per_class: examples of each, a positive multiple of `halves`.
    halves: number of batches.
  """
  if per_class < 1 or per_class % halves:
    raise ValueError(
      f"`samples_per_class` must be a positive multiple of {halves}, got"
      f" {per_class}."
    )

  def take(view: View) -> tuple[jax.Array, jax.Array]:
    found: list[list[np.ndarray]] = [[] for _ in range(classes)]
    # One epoch at the most: the next one has the same examples.
    for images, labels in itertools.islice(
      view.examples(classes), view.train_examples // classes
    ):
      for image, label in zip(images, labels, strict=True):
        if len(found[label]) < per_class:
          found[label].append(image)
      if sum(map(len, found)) == per_class * classes:
        break
    short = min(range(classes), key=lambda label: len(found[label]))
    if len(found[short]) < per_class:
      raise ValueError(
        f"`samples_per_class` of {per_class}: class {short} has only"
        f" {len(found[short])} training examples."
      )
    images = np.stack([np.stack(some) for some in found], axis=1)
    labels = np.broadcast_to(
      np.arange(classes, dtype=np.int32), images.shape[:2]
    )
    shape = (halves, -1)
    return _inputs(
      view,
      Split(images.reshape(*shape, *images.shape[2:]), labels.reshape(shape)),
    )

  return take


def ones(view: View) -> tuple[jax.Array, jax.Array]:
  """No data: one input of ones, after normalization."""
  inputs = jnp.ones((1, 1, *view.image_shape), jnp.float32)
  return inputs, jnp.zeros((1, 1), jnp.int32)


def cross_entropy(
  logits: jax.Array, labels: jax.Array, *, temperature: float = 1.0
) -> jax.Array:
  """Returns the mean cross-entropy of logits over a temperature."""
  return optax.softmax_cross_entropy_with_integer_labels(
    logits / temperature, labels
  ).mean()


def outputs(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns the logits themselves, which SynFlow sums."""
  del labels  # There is no data.
  return logits


def _pruned(
  criterion: at_init.NetworkCriterion,
  sparsity: float,
  scope: Scope,
  *,
  data: Data,
  loss: Loss = cross_entropy,
  trains: bool = True,
) -> Plan:
  """The plan of all that prunes at initialisation: static masks afterwards."""
  first = functools.partial(
    _scored,
    criterion=criterion,
    sparsity=sparsity,
    scope=scope,
    data=data,
    loss=loss,
    trains=trains,
  )
  return Plan(methods.static(sparsity), first=first)


def _scored(
  view: View,
  *,
  criterion: at_init.NetworkCriterion,
  sparsity: float,
  scope: Scope,
  data: Data,
  loss: Loss,
  trains: bool,
) -> Any:
  """Returns the masks of the highest scores.

  The model runs as in training, with the batch's own statistics, unless
  `trains` is false. Images are not augmented.
  """
  model = _of_any_precision(view.setup.model)

  def loss_fn(params: Any, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
    inputs, labels = batch
    logits, _ = step.forward(
      model,
      params,
      view.weights.model_state,
      inputs,
      dropout_key=view.key if trains else None,
    )
    return loss(logits, labels)

  return at_init.prune_at_init(
    loss_fn,
    view.weights.params,
    data(view),
    sparsity,
    criterion=criterion,
    scope=scope,
    select=view.select,
    overrides=view.overrides,
    key=view.key,
  )


def _found(view: View, *, sparsity: float | None, scope: Scope) -> Any:
  """Returns the masks of the earlier run, or the largest weights of them."""
  assert view.found is not None  # `build` refused to go on without one.
  if sparsity is None:
    return view.found.masks
  return at_init.prune_at_init(
    None,
    view.found.params,
    None,
    sparsity,
    criterion=at_init.magnitude,
    scope=scope,
    masks=view.found.masks,
    overrides=view.overrides,
  )


_WIDTHS = 1024  # Widths are multiples of 1 / 1024.


def _narrow(
  make: Callable[..., nn.Module],
  size: Size,
  *,
  sparsity: float,
  mask_bits: bool,
) -> nn.Module:
  """Returns the widest model within the bits of the sparse one."""
  sparse, parameters = size.sparse(make()), size.parameters(make())
  kept = search.requested_count(sparse, sparsity)
  budget = 32 * (kept + parameters - sparse) + mask_bits * sparse
  low, high = 0, _WIDTHS  # The model of width low / _WIDTHS fits.
  while low < high:
    middle = (low + high + 1) // 2
    fits = 32 * size.parameters(make(width=middle / _WIDTHS)) <= budget
    low, high = (middle, high) if fits else (low, middle - 1)
  if not low:
    least = size.parameters(make(width=1 / _WIDTHS))
    raise ValueError(
      f"`sparsity` of {sparsity} leaves {budget // 32} parameters, but the"
      f" narrowest such model has {least}. Lower it."
    )
  return make(width=low / _WIDTHS)


def _of_any_precision(model: nn.Module) -> nn.Module:
  """Lets a model compute in the dtype of its inputs and parameters."""
  return model.clone(dtype=None) if hasattr(model, "dtype") else model


def _inputs(view: View, batch: Split) -> tuple[jax.Array, jax.Array]:
  images = batches.normalize(batch.images, view.setup.mean, view.setup.std)
  return images, jnp.asarray(batch.labels, jnp.int32)
