"""A network whose dead filters are cut out by hand computes the same."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import tiers
from jax import lax

import sparsejax
from sparsejax.analysis.coupling import coupling
from sparsejax.models import resnet

STEPS, BATCH, SIZE = 8, 4, 8


def images(seed, batch=BATCH):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.normal(size=(batch, SIZE, SIZE, 3)), jnp.float32)


def trained(blocks):
  """ResNet-20 after GraNet on filters, from none to half of them pruned."""
  model = resnet.resnet20(10).clone(blocks=blocks)
  start = jax.jit(functools.partial(model.init, train=False))
  variables = start(jax.random.key(0), images(0))
  params, stats = variables["params"], variables["batch_stats"]
  constants = jax.tree.map(np.asarray, stats)
  groups = coupling(
    lambda p, x: model.apply(
      {"params": p, "batch_stats": constants}, x, train=False
    ),
    params,
    images(0),
  )
  method = sparsejax.granet(
    0.5,
    end_step=6,
    every_steps=2,
    total_steps=STEPS,
    scope=sparsejax.layerwise(sparsejax.uniform),
    granularity=sparsejax.filters(groups),
  )
  tx = sparsejax.sparsify(
    optax.sgd(0.05, momentum=0.9), method, key=jax.random.key(1)
  )
  state = jax.jit(tx.init)(params)
  params = sparsejax.apply_masks(params, state)

  def loss(params, stats, x):
    logits, new = model.apply(
      {"params": params, "batch_stats": stats},
      x,
      train=True,
      mutable=["batch_stats"],
    )
    targets = jnp.arange(BATCH) % 10
    found = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return found.mean(), new["batch_stats"]

  @jax.jit
  def step(params, stats, state, x):
    grads, stats = jax.grad(loss, has_aux=True)(params, stats, x)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), stats, state

  for i in range(STEPS):
    params, stats, state = step(params, stats, state, images(i))
  sparsejax.assert_sparse(params, state)
  return model, params, stats, state


def convolve(x, kernel, stride):
  pad = kernel.shape[0] // 2
  return lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    [(pad, pad)] * 2,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )


def normalize(x, params, stats):
  scaled = (x - stats["mean"]) * lax.rsqrt(stats["var"] + 1e-5)
  return scaled * params["scale"] + params["bias"]


def forward(params, stats, x):
  """ResNet-20 by hand, of any widths."""
  x = convolve(x, params["stem"]["kernel"], 1)
  x = jax.nn.relu(normalize(x, params["stem_norm"], stats["stem_norm"]))
  for name in sorted(name for name in params if name.startswith("stage")):
    block, seen = params[name], stats[name]
    stride = 2 if "shortcut" in block else 1
    y = convolve(x, block["conv1"]["kernel"], stride)
    y = jax.nn.relu(normalize(y, block["norm1"], seen["norm1"]))
    y = convolve(y, block["conv2"]["kernel"], 1)
    y = normalize(y, block["norm2"], seen["norm2"])
    if "shortcut" in block:
      x = convolve(x, block["shortcut"]["kernel"], stride)
      x = normalize(x, block["shortcut_norm"], seen["shortcut_norm"])
    x = jax.nn.relu(x + y)
  classifier = params["classifier"]
  return x.mean(axis=(1, 2)) @ classifier["kernel"] + classifier["bias"]


def alive(masks):
  """Indices of the active filters; one that was just regrown is 0, too."""
  return np.flatnonzero(np.asarray(masks["kernel"]).any(axis=(0, 1, 2)))


def cut(params, stats, masks):
  """Returns the network without its dead filters."""

  def conv(found, inputs, outputs):
    return {"kernel": np.asarray(found["kernel"])[:, :, inputs][..., outputs]}

  def norm(found, outputs):
    return {key: np.asarray(x)[outputs] for key, x in found.items()}

  stream = alive(masks["stem"])
  left = {
    "stem": conv(params["stem"], np.arange(3), stream),
    "stem_norm": norm(params["stem_norm"], stream),
  }
  seen = {"stem_norm": norm(stats["stem_norm"], stream)}
  for name in sorted(name for name in params if name.startswith("stage")):
    block, old = params[name], stats[name]
    inside, out = alive(masks[name]["conv1"]), stream
    if "shortcut" in block:
      out = alive(masks[name]["shortcut"])
    np.testing.assert_array_equal(alive(masks[name]["conv2"]), out)
    parts = {
      "conv1": conv(block["conv1"], stream, inside),
      "conv2": conv(block["conv2"], inside, out),
    }
    norms = {"norm1": inside, "norm2": out}
    if "shortcut" in block:
      parts["shortcut"] = conv(block["shortcut"], stream, out)
      norms["shortcut_norm"] = out
    left[name] = parts | {n: norm(block[n], kept) for n, kept in norms.items()}
    seen[name] = {n: norm(old[n], kept) for n, kept in norms.items()}
    stream = out
  classifier = params["classifier"]
  left["classifier"] = {
    "kernel": np.asarray(classifier["kernel"])[stream],
    "bias": np.asarray(classifier["bias"]),
  }
  return left, seen


# ResNet-8 and ResNet-20.
@pytest.mark.parametrize("blocks", tiers.every(2, [1, 3]))
def test_cutting_the_dead_half_of_the_filters_changes_no_output(blocks):
  model, params, stats, state = trained((blocks,) * 3)
  counted = sparsejax.summary(params, state)
  assert counted.active_units * 2 == counted.total_units
  assert counted.active_units == counted.requested
  x = images(99, batch=8)
  apply = jax.jit(functools.partial(model.apply, train=False))
  masked = apply({"params": params, "batch_stats": stats}, x)
  largest = np.abs(masked).max()  # Float32 rounds outputs of this size.

  def check(outputs):
    np.testing.assert_allclose(outputs, masked, rtol=0, atol=1e-6 * largest)

  compiled = jax.jit(forward)
  check(compiled(params, stats, x))
  small, seen = cut(params, stats, state.masks)
  assert sum(x.size for x in jax.tree.leaves(small)) < 0.3 * sum(
    x.size for x in jax.tree.leaves(params)
  )
  check(compiled(small, seen, x))
  # In double precision the dead filters are seen to contribute nothing.
  with jax.enable_x64(True):
    precise = jax.tree.map(
      lambda x: jnp.asarray(np.asarray(x), jnp.float64),
      (params, stats, small, seen, x),
    )
    params, stats, small, seen, x = precise
    np.testing.assert_allclose(
      compiled(small, seen, x), compiled(params, stats, x), rtol=1e-10
    )
