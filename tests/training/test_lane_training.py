"""Training in lanes: losses and masks of masked training, and errors."""

import functools
import json
import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import in_process, stopping, tiers, trainer

import sparsejax
from sparsejax import command_line, models, train
from sparsejax.components import criteria, fan_in
from sparsejax.training import (
  initial_state,
  lane_training,
  outcomes,
  sharding,
  weight_layouts,
)
from sparsejax.training.checkpointing import reading
from sparsejax.training.config import build, command, sections
from sparsejax.training.reporting import results, workdirs

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "set_mlp.py"
EVERY, STEPS = 3, 13
INNERS = {
  "sgd": optax.chain(
    optax.add_decayed_weights(1e-3),
    optax.trace(0.9),
    optax.scale_by_learning_rate(0.1),
  ),
  "adam": optax.adamw(1e-2),
  "clipped adagrad": optax.chain(
    optax.clip_by_global_norm(0.3), optax.adagrad(0.1)
  ),
}
CHANGES = {
  "as in the paper": {},
  "by magnitude": {"by_sign": False},
  "next to active": {"regrow_by": criteria.near_active()},
  "reset": {"reset_optimizer": True},
}


def set_method(sparsity=0.6, **changes):
  return sparsejax.sparse_evolution(
    sparsity=sparsity,
    every_steps=EVERY,
    total_steps=STEPS + 1,
    masks_first=True,
    **changes,
  )


class Side:
  """One of the two layouts: its network, state and step."""

  def __init__(self, layout, inner, method, hidden=(24, 12), trains=True):
    self.layout = weight_layouts.LAYOUTS[layout]
    self.model = models.set_mlp(5, hidden=hidden, layout=layout, dropout=0.0)
    self.tx = self.layout.sparsify(
      inner, method, key=jax.random.key(1), overrides={"output/*": "dense"}
    )
    self.params, self.state = (
      jax.jit(self._start)() if trains else jax.eval_shape(self._start)
    )
    self.step, self.update = jax.jit(self._step), jax.jit(self.tx.update_masks)

  def _start(self):
    image = jnp.zeros((1, 10, 10, 1))
    dense = self.model.init(jax.random.key(0), image, train=False)["params"]
    state = self.tx.init(dense)
    return self.layout.hold(dense, state), state

  def _step(self, params, state, images, labels):
    def loss_of(params):
      variables = {"params": params, **self.layout.collections(state)}
      logits = self.model.apply(variables, images, train=False)
      losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
      return losses.mean()

    loss, grads = jax.value_and_grad(loss_of)(params)
    updates, state = self.tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state, loss

  def train(self, steps):
    """Takes steps; returns losses, and the masks after each step."""
    rng = np.random.default_rng(0)
    losses, masks = [], []
    for _ in range(steps):
      images = jnp.asarray(rng.normal(size=(20, 10, 10, 1)), jnp.float32)
      labels = jnp.asarray(rng.integers(0, 5, 20))
      self.params, self.state = self.update(self.params, self.state)
      self.params, self.state, loss = self.step(
        self.params, self.state, images, labels
      )
      losses.append(float(loss))
      masks.append(jax.tree.map(np.asarray, sparsejax.get_masks(self.state)))
    return losses, masks

  def dense(self, tree):
    """Returns a tree of values as dense kernels."""
    return jax.tree.map(
      lambda x, mask: (
        fan_in.kernel_of(x, mask) if isinstance(mask, fan_in.FanIn) else x
      ),
      tree,
      self.state.masks,
      is_leaf=lambda x: not isinstance(x, dict),
    )


PAIRS = [(inner, changes) for inner in INNERS for changes in CHANGES]
ALWAYS = (("sgd", "as in the paper"),)


@pytest.mark.parametrize(
  ("inner", "changes"), tiers.some(PAIRS, ALWAYS.__contains__)
)
def test_it_trains_as_masked_training_does(inner, changes):
  masked, sparse = (
    Side(layout, INNERS[inner], set_method(**CHANGES[changes]))
    for layout in ("masked", "sparse")
  )
  first = jax.tree.map(np.asarray, sparsejax.get_masks(masked.state))
  losses, masks = masked.train(STEPS)
  found_losses, found_masks = sparse.train(STEPS)
  np.testing.assert_allclose(found_losses, losses, rtol=1e-4)
  for a, b in zip(
    jax.tree.leaves(masks), jax.tree.leaves(found_masks), strict=True
  ):
    np.testing.assert_array_equal(a, b)
  moved = [
    (a != b).any()
    for a, b in zip(
      jax.tree.leaves(first), jax.tree.leaves(masks[-1]), strict=True
    )
  ]
  assert all(moved)  # The masks did change.
  assert sparse.step._cache_size() == 1  # And nothing was compiled again.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
    sparse.dense(sparse.params),
    masked.params,
  )
  stats = sparsejax.stats(masked.state)
  del stats["ever_active"]
  found = sparsejax.stats(sparse.state)
  assert {k: int(v) for k, v in found.items()} == {
    k: int(v) for k, v in stats.items()
  }
  np.testing.assert_array_equal(sparse.state.changes, masked.state.changes)
  assert_same_summary([masked, sparse])


def assert_same_summary(sides):
  found = [
    sparsejax.summary(side.layout.shapes(side.params, side.state), side.state)
    for side in sides
  ]
  layers = [
    [layer._replace(ever_active=None) for layer in each.layers]
    for each in found
  ]
  assert layers[0] == layers[1]
  assert found[0].parameters == found[1].parameters
  assert found[0].requested == found[1].requested == found[1].active


def test_nothing_is_dense_between_updates():
  """No array of a step has as many elements as a kernel."""
  method = set_method(sparsity=0.98)
  side = Side("sparse", INNERS["sgd"], method, hidden=(100, 90), trains=False)
  sizes = [x.size for x in jax.tree.leaves((side.params, side.state))]
  assert max(sizes) < 100 * 90 / 4
  images, labels = jnp.zeros((1, 10, 10, 1)), jnp.zeros(1, int)
  traced = jax.make_jaxpr(side.step)(side.params, side.state, images, labels)
  assert max(_sizes(traced.jaxpr)) < 100 * 90 / 4


def _sizes(jaxpr):
  for eqn in jaxpr.eqns:
    yield from (x.aval.size for x in eqn.outvars if hasattr(x.aval, "size"))
    for value in jax.tree.leaves(
      list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "jaxpr")
    ):
      if hasattr(value, "jaxpr"):
        yield from _sizes(value.jaxpr)


def argv(folder, *options):
  return [
    f"--config={CONFIG}:runlocal",
    "--config.epochs=3",
    "--config.model.hidden=(16, 12)",
    f"--workdir={folder}",
    *options,
  ]


def finished(folder, layout):
  assert train.main(argv(folder, f"--config.model.layout={layout}")) == 0
  return json.loads((folder / "summary.json").read_text())


@functools.cache
def experiment():
  """Returns the experiment in lanes, which compiles once."""
  given = argv("unused", "--config.model.layout=sparse")
  return build.build(command.parse(given).config)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """Returns the workdir of a finished run in lanes, and its outcome."""
  folder = tmp_path_factory.mktemp("whole")
  workdirs.claim(folder, experiment().config)
  outcome, _ = in_process.run(experiment(), folder)
  summary = results.summarize(experiment(), outcome)
  workdirs.write_json(folder / workdirs.SUMMARY, summary)
  return folder, outcome


def test_a_resumed_run_equals_a_whole_one(whole, tmp_path):
  folder, wanted = whole
  summary = json.loads((folder / workdirs.SUMMARY).read_text())
  assert summary["mask_updates"] == 2
  assert summary["itop_rate"] is None
  stop = stopping.StopAfter(2)
  stopped, _ = in_process.run(experiment(), tmp_path, stop=stop)
  assert stopped.status == outcomes.TERMINATED
  resumed, _ = in_process.run(experiment(), tmp_path)
  assert resumed.resumed_from_step == stopped.step
  found, expected = map(sharding.fetch, (resumed.state, wanted.state))
  chex.assert_trees_all_equal(found, expected)
  assert trainer.metrics(tmp_path) == trainer.metrics(folder)


@pytest.mark.parametrize("mode", ["rewind", "lr_rewind"])
def test_a_masked_run_takes_its_weights_and_masks(whole, mode):
  whole, _ = whole
  given = argv("unused", f"--config.init_from={whole}")
  config = command.parse(given).config.copy_and_resolve_references()
  with config.unlocked():
    config.method = sections.section("method", "retrain", sparsity=None)
    config.init_mode, config.metric = mode, None
  state = initial_state.create(build.build(config), sharding.make_mesh())
  trained = reading.read(whole, reading.saved_steps(whole)[-1])
  masks = sparsejax.get_masks(state.opt_state)
  for name in ("hidden_0", "hidden_1"):
    stored = trained["opt_state"]["masks"][name]["kernel"]["lanes"]
    outputs = np.arange(len(stored["counts"]))
    outputs[len(outputs) - len(stored["owners"]) :] = stored["owners"]
    kernel = np.zeros(masks[name]["kernel"].shape, np.float32)
    flags = np.zeros(kernel.shape, bool)
    for lane, count in enumerate(stored["counts"]):
      if not count:
        continue  # The owner of an unused lane is no output.
      index = stored["indices"][:count, lane]
      flags[index, outputs[lane]] = True
      values = trained["params"][name]["kernel"][:count, lane]
      kernel[index, outputs[lane]] = values
    np.testing.assert_array_equal(masks[name]["kernel"], flags)
    found = np.asarray(state.params[name]["kernel"])
    if mode == "lr_rewind":
      np.testing.assert_array_equal(found, kernel)
    assert ((found != 0) == flags).all()


@tiers.SLOW
def test_the_trainer_gives_the_result_of_masked_training(tmp_path):
  masked, sparse = (
    finished(tmp_path / layout, layout) for layout in ("masked", "sparse")
  )
  same = ("active", "total", "parameters", "inference_macs", "training_flops")
  assert {k: sparse[k] for k in same} == {k: masked[k] for k in same}
  assert sparse["mask_updates"] == masked["mask_updates"] > 0
  assert sparse["test_loss"] == pytest.approx(masked["test_loss"], rel=1e-4)
  keys = ("name", "shape", "total", "active", "requested", "sparsity", "macs")
  for a, b in zip(sparse["layers"], masked["layers"], strict=True):
    assert {k: a[k] for k in keys} == {k: b[k] for k in keys}


REFUSED = {
  "dynset": (["--config=set_mlp:dynset,runlocal"], "follows a metric"),
  "set_more": (
    ["--config=set_mlp:set_more,runlocal"],
    "follows a metric|another number",
  ),
  "in a step": (
    ["--config=set_mlp:runlocal", "--config.method.masks_first=False"],
    "masks_first",
  ),
  "average": (["--config=set_mlp:runlocal", "--config.ema_decay=0.9"], "ema"),
  "kept": (
    ["--config=set_mlp:runlocal", "--config.keep_steps=(0,40)"],
    "keep_steps",
  ),
  "fsdp": (
    [
      "--config=set_mlp:runlocal",
      "--config.mesh.data=1",
      "--config.mesh.fsdp=-1",
    ],
    "mesh",
  ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_trained_in_lanes_is_refused(case):
  given, message = REFUSED[case]
  config = command.parse([*given, "--config.model.layout=sparse"]).config
  with pytest.raises(command_line.InputError, match=message) as caught:
    build.build(config)
  assert "layout" in str(caught.value)


@pytest.mark.parametrize(
  ("method", "message"),
  [
    (
      sparsejax.rigl(0.9, end_step=8, every_steps=2),
      "reads the gradient of inactive weights",
    ),
    (
      sparsejax.gmp(0.9, end_step=8, every_steps=2),
      "counts of active weights change",
    ),
    (sparsejax.track_ever_active(sparsejax.static(0.9)), "keeps numbers"),
  ],
)
def test_methods_that_need_dense_arrays_are_refused(method, message):
  with pytest.raises(ValueError, match=message):
    lane_training.sparsify(optax.sgd(0.1), method, key=jax.random.key(0))


def test_a_kernel_that_is_no_matrix_is_refused():
  tx = lane_training.sparsify(
    optax.sgd(0.1), sparsejax.static(0.9), key=jax.random.key(0)
  )
  with pytest.raises(ValueError, match="needs matrices, but 'conv/kernel'"):
    tx.init({"conv": {"kernel": jnp.ones((3, 3, 4, 5))}})
