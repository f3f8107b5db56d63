"""Masks that the trainer draws before its first step, and narrower models."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sparsejax
from sparsejax import at_init, command_line, models
from sparsejax.components import trees
from sparsejax.data import Split
from sparsejax.training import initial_state, mesh, plans, step
from sparsejax.training.config import build, command

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "digits.py"
SCORED = (
  "snip",
  "grasp",
  "synflow",
  "taylor",
  "random_init",
  "magnitude_init",
)


def experiment(options, *changes):
  argv = [f"--config={CONFIG}:{options},runlocal", *changes]
  return build.build(command.parse(argv).config)


def small(options, *changes):
  return experiment(options, "--config.model.hidden=(24, 12)", *changes)


def begin(chosen):
  return initial_state.begin(chosen, mesh.data_mesh())


def dense_weights(chosen):
  return step.initial_weights(
    chosen.setup, chosen.init_key, chosen.dataset.example
  )


@pytest.mark.parametrize("name", SCORED)
def test_masks_are_drawn_before_the_first_step_and_stay(name):
  changes = ["--config.method.rounds=5"] if name == "synflow" else []
  chosen = small(f"{name},sparsity=0.8", *changes)
  state = begin(chosen)
  counts = sparsejax.summary(state.params, state.opt_state)
  requested = sparsejax.selection.search.requested_count(
    64 * 24 + 24 * 12 + 12 * 10, 0.8
  )
  assert counts.active == counts.requested == requested
  sparsejax.assert_sparse(state.params, state.opt_state)
  weights = dense_weights(chosen).params
  masks = sparsejax.get_masks(state.opt_state)
  jax.tree.map(
    np.testing.assert_array_equal, state.params, trees.where(masks, weights)
  )


@pytest.mark.parametrize("name", ["snip", "grasp"])
def test_the_same_masks_are_drawn_again(name):
  masks, again = (
    sparsejax.get_masks(begin(small(f"{name},seed=2")).opt_state)
    for _ in range(2)
  )
  jax.tree.map(np.testing.assert_array_equal, masks, again)


def test_masks_stay_while_weights_move():
  chosen = small("snip")
  state = begin(chosen)
  train = jax.tree.map(jnp.asarray, chosen.dataset.train)
  trained, _ = jax.jit(functools.partial(step.train_steps, chosen.setup))(
    state, train
  )
  masks = sparsejax.get_masks(state.opt_state)
  jax.tree.map(
    np.testing.assert_array_equal,
    masks,
    sparsejax.get_masks(trained.opt_state),
  )
  sparsejax.assert_sparse(trained.params, trained.opt_state)
  kernels = [s.params["Dense_1"]["kernel"] for s in (state, trained)]
  assert bool(jnp.any(kernels[0] != kernels[1]))


def cross_entropy_by_hand(params, inputs, labels):
  x = inputs.reshape(inputs.shape[0], -1)
  for number in range(3):
    layer = params[f"Dense_{number}"]
    x = x @ layer["kernel"] + layer["bias"]
    x = jax.nn.relu(x) if number < 2 else x
  return optax.softmax_cross_entropy_with_integer_labels(x, labels).mean()


def test_snip_scores_one_batch_of_the_train_split():
  chosen = small("snip,sparsity=0.8", "--config.method.batch_size=1438")
  train = chosen.dataset.train
  inputs = (train.images - chosen.dataset.mean) / chosen.dataset.std
  # The whole split is one batch in any order.
  want = sparsejax.prune_at_init(
    lambda p, batch: cross_entropy_by_hand(p, *batch),
    dense_weights(chosen).params,
    (jnp.asarray(inputs, jnp.float32)[None], jnp.asarray(train.labels)[None]),
    0.8,
  )
  found = sparsejax.get_masks(begin(chosen).opt_state)
  same = [
    float(jnp.mean(a == b))
    for a, b in zip(*map(jax.tree.leaves, (found, want)), strict=True)
  ]
  assert min(same) > 0.998  # Sums in another order move a few ranks.


def test_synflow_sees_ones_and_no_label():
  chosen = small("synflow,sparsity=0.8", "--config.method.rounds=7")

  def forward(params, x):
    for number in range(3):
      layer = params[f"Dense_{number}"]
      x = x @ layer["kernel"] + layer["bias"]
      x = jax.nn.relu(x) if number < 2 else x
    return x

  want = sparsejax.prune_at_init(
    forward,
    dense_weights(chosen).params,
    jnp.ones((1, 1, 64)),
    0.8,
    criterion=at_init.synflow._replace(rounds=7),
  )
  found = sparsejax.get_masks(begin(chosen).opt_state)
  jax.tree.map(np.testing.assert_array_equal, found, want)


def test_random_masks_within_layers_are_those_of_static():
  scope = "--config.method.scope=erk"
  drawn = begin(small("random_init,sparsity=0.8,seed=3", scope))
  static = begin(small("static,sparsity=0.8,seed=3"))
  jax.tree.map(
    np.testing.assert_array_equal,
    sparsejax.get_masks(drawn.opt_state),
    sparsejax.get_masks(static.opt_state),
  )


def test_selected_and_dense_leaves_are_left_alone():
  state = begin(
    small(
      "snip,sparsity=0.5",
      "--config.select=Dense_?/kernel",
      "--config.dense=Dense_2/*",
    )
  )
  names = [
    layer.name
    for layer in sparsejax.summary(state.params, state.opt_state).layers
  ]
  assert names == ["Dense_0/kernel", "Dense_1/kernel"]


def test_batches_are_balanced_in_each_half():
  chosen = small("grasp", "--config.method.samples_per_class=4")
  train = chosen.dataset.train
  view = plans.View(
    setup=chosen.setup,
    weights=None,
    examples=functools.partial(
      initial_state._examples, chosen.dataset, jax.random.key(1)
    ),
    train_examples=train.examples,
    image_shape=train.image_shape,
    key=None,
    found=None,
    select=None,
    overrides=None,
  )
  inputs, labels = plans.balanced(10, 4, halves=2)(view)
  assert inputs.shape == (2, 20, 8, 8, 1)
  for half in labels:
    np.testing.assert_array_equal(np.bincount(half), [2] * 10)
  # Each input is an image of its label, and none stands twice.
  known = {
    image.tobytes(): label
    for image, label in zip(train.images, train.labels, strict=True)
  }
  images = inputs * chosen.dataset.std + chosen.dataset.mean
  images = np.rint(np.asarray(images)).astype(np.uint8).reshape(40, 8, 8, 1)
  found = [known[image.tobytes()] for image in images]
  np.testing.assert_array_equal(found, np.asarray(labels).ravel())
  assert len({image.tobytes() for image in images}) == 40


def test_grasp_divides_its_logits():
  logits, labels = jnp.array([[4.0, 0.0]]), jnp.array([0])
  cold = plans.cross_entropy(logits, labels)
  warm = plans.cross_entropy(logits, labels, temperature=200.0)
  np.testing.assert_allclose(cold, np.log1p(np.exp(-4)), rtol=1e-5)
  np.testing.assert_allclose(warm, np.log1p(np.exp(-0.02)), rtol=1e-5)


@pytest.mark.parametrize(
  ("options", "change", "message"),
  [
    ("snip,sparsity=90", "", "`sparsity` must be in [0, 1), got 90"),
    ("snip", "batches=0", "must be at least 1, got 0, 128"),
    ("grasp", "samples_per_class=5", "a positive multiple of 2, got 5"),
    ("synflow", "rounds=0", "`rounds` must be at least 1, got 0"),
  ],
)
def test_bad_arguments_are_refused_before_anything_runs(
  options, change, message
):
  changes = [f"--config.method.{change}"] if change else []
  with pytest.raises(command_line.InputError) as caught:
    small(options, *changes)
  assert message in str(caught.value)


@pytest.mark.parametrize(
  ("options", "change", "message"),
  [
    ("snip", "batch_size=1439", "must be at most 1438, the training examples"),
    ("grasp", "samples_per_class=200", "of 200: class"),
  ],
)
def test_data_that_is_too_little_is_told(options, change, message):
  chosen = small(options, f"--config.method.{change}")
  with pytest.raises(command_line.InputError) as caught:
    begin(chosen)
  assert message in str(caught.value)


# Models that compute in what they are given


def test_deep_models_flow_in_float64():
  model = models.MODELS["resnet50_cifar"](10, width=0.25, dtype="bfloat16")
  images = jnp.ones((1, 8, 8, 3))
  variables = jax.eval_shape(
    functools.partial(model.init, train=False), jax.random.key(0), images
  )

  def grown(params, x):
    wide = plans._of_any_precision(model)
    state = {k: v for k, v in variables.items() if k != "params"}
    state = jax.tree.map(lambda s: jnp.ones(s.shape, s.dtype), state)
    return step.forward(wide, params, state, x, dropout_key=None)[0]

  with jax.enable_x64(True):
    params = jax.tree.map(
      lambda s: jax.ShapeDtypeStruct(s.shape, jnp.float64),
      variables["params"],
    )
    out = jax.eval_shape(
      grown, params, jax.ShapeDtypeStruct(images.shape, jnp.float64)
    )
  assert out.dtype == jnp.float64


# Small-Dense


@pytest.mark.parametrize(("model", "sparsity"), [("mlp", 0.9), ("cnn", 0.5)])
def test_a_small_dense_network_is_as_large_as_the_sparse_one(model, sparsity):
  name = f"small_dense,sparsity={sparsity},model={model}"
  chosen = experiment(name)
  state = begin(chosen)
  whole = dense_weights(experiment(f"dense,model={model}")).params
  sparse = sum(x.size for x in jax.tree.leaves(whole) if x.ndim > 1)
  rest = sum(x.size for x in jax.tree.leaves(whole) if x.ndim == 1)
  kept = sparsejax.selection.search.requested_count(sparse, sparsity)
  budget = (32 * (kept + rest) + sparse) // 32
  found = sum(x.size for x in jax.tree.leaves(state.params))
  assert 0.8 * budget < found <= budget
  counts = sparsejax.summary(state.params, state.opt_state)
  assert counts.active == counts.total
  bare = experiment(name, "--config.method.count_masks=False")
  fewer = sum(x.size for x in jax.tree.leaves(dense_weights(bare).params))
  assert fewer <= kept + rest


def test_the_papers_width_of_small_dense():
  make = functools.partial(models.MODELS["resnet50"], 1000)

  def params_of(model):
    return jax.eval_shape(
      functools.partial(model.init, train=False),
      jax.random.key(0),
      jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32),
    )["params"]

  def sparse(model):
    params = params_of(model)
    return sum(trees.layout(params, trees.select_leaves(params, None)).sizes)

  def parameters(model):
    return sum(x.size for x in jax.tree.leaves(params_of(model)))

  # Evci et al. count parameters and masks in bits. The widths of 80, 95 and
  # 96.5 % come out as well: 0.459 (0.465), 0.260 (0.26), 0.230 (0.231).
  model = plans.small_dense(0.9).model(make, plans.Size(sparse, parameters))
  assert model.widths[-1] / 512 == pytest.approx(0.34, abs=0.004)


def test_a_budget_below_the_narrowest_model_is_refused():
  with pytest.raises(
    command_line.InputError, match="the narrowest such model has"
  ):
    experiment(
      "small_dense,sparsity=0.999",
      "--config.model.hidden=(4,)",
    )


@pytest.mark.parametrize("width", ["0", "1.5"])
def test_widths_out_of_range_are_refused(width):
  with pytest.raises(command_line.InputError, match="`width` must be in"):
    experiment("dense", f"--config.model.width={width}")


def test_every_model_can_be_narrower():
  for name in ("set_mlp", "resnet20", "resnet50_6n2", "vgg_c", "mobilenet_v1"):
    factory = models.MODELS[name]
    narrow, wide = (
      jax.eval_shape(
        functools.partial(factory(10, width=width).init, train=False),
        jax.random.key(0),
        jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32),
      )
      for width in (0.25, 1.0)
    )
    sizes = [
      sum(x.size for x in jax.tree.leaves(v["params"])) for v in (narrow, wide)
    ]
    assert sizes[0] < 0.4 * sizes[1], name


def test_a_stream_is_read_for_scores():
  """Batches of a view are those that the data gives, whatever its kind."""
  chosen = small("snip")
  view = initial_state._examples(chosen.dataset, jax.random.key(0), 1000)
  first, second = next(view), next(view)
  assert isinstance(first, Split)
  assert first.images.shape == (1000, 8, 8, 1)
  assert (first.labels != second.labels).any()
