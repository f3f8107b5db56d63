"""Which channels belong together, by hand on small networks."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from sparsejax.analysis import coupling
from sparsejax.analysis.coupling import Role
from sparsejax.models import MODELS


def float32(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def members(groups, leaf, axis, index):
  """Returns what is coupled to one index, as (leaf, axis, index) -> role."""
  found = groups.members(groups.of[leaf][axis][index])
  return {(m.leaf, m.axis, m.index): m.role for m in found}


def built_in(name, image, classes=10, **options):
  model = MODELS[name](classes, **options)
  variables = jax.eval_shape(
    lambda x: model.init(jax.random.key(0), x, train=False), float32(*image)
  )
  return coupling.coupling(
    lambda v, x: model.apply(v, x, train=False), variables, float32(*image)
  )


def test_a_residual_stream_has_all_its_writers_and_readers():
  groups = built_in("resnet20", (1, 32, 32, 3))
  found = members(groups, "params/stage2_block0/conv2/kernel", 3, 4)
  stage = "params/stage2_block"
  writers = {key for key, role in found.items() if role == Role.WRITER}
  readers = {key for key, role in found.items() if role == Role.READER}
  assert writers == {
    (f"{stage}{block}/kernel", 3, 4)
    for block in ("0/conv2", "0/shortcut", "1/conv2", "2/conv2")
  }
  assert readers == {
    (f"params/{reader}/kernel", 2, 4)
    for reader in (
      "stage2_block1/conv1",
      "stage2_block2/conv1",
      "stage3_block0/conv1",
      "stage3_block0/shortcut",
    )
  }
  # The four norms: scale and bias, mean and variance.
  assert len(found) == 8 + 4 * 4
  assert not groups.unknown


@pytest.mark.parametrize(
  "name, image, free",
  [
    # Inner channels of 9 blocks and 3 streams.
    ("resnet20", (1, 32, 32, 3), 3 * (16 + 32 + 64) + 16 + 32 + 64),
    ("mlp", (1, 8, 8, 1), 512),
    ("cnn", (1, 8, 8, 1), 16 + 32 + 64),
    ("vgg_c", (1, 32, 32, 3), 4224 + 2 * 512),
    ("set_mlp", (1, 32, 32, 3), 9000),
    ("mobilenet_v1", (1, 64, 64, 3), 5984),
    # Zero padding couples stages: the stream is one of 128 channels.
    ("resnet50_6n2", (1, 32, 32, 3), 8 * (32 + 64 + 128) + 128),
  ],
)
def test_free_groups_of_built_in_models(name, image, free):
  groups = built_in(name, image)
  assert (~groups.frozen).sum() == free
  assert not groups.unknown


def test_reasons_are_named():
  params = {"a": np.ones((4, 6)), "b": np.ones((6, 6)), "c": np.ones((6, 2))}

  def apply(p, x):
    y = x @ p["a"]
    z = jax.nn.relu(y - y.mean(-1, keepdims=True)) @ p["b"]
    return jnp.sort(z) @ p["c"]

  groups = coupling.coupling(apply, params, np.ones((3, 4)))

  def reasons(leaf, axis):
    return groups.reasons(groups.of[leaf][axis][0])

  assert reasons("a", 0) == ("an input",)
  assert reasons("a", 1) == ("`reduce_sum`",)
  assert reasons("b", 1) == ("`sort`, which has no rule",)
  assert reasons("c", 1) == ("an output",)
  assert groups.unknown == {"sort": 1}
  assert groups.frozen.all()


def test_a_leaf_without_use_is_frozen():
  params = {"a": np.ones((4, 6)), "unused": np.ones(3)}
  groups = coupling.coupling(lambda p, x: x @ p["a"], params, np.ones((1, 4)))
  assert groups.reasons(groups.of["unused"][0][0]) == ("no use",)


def test_a_concatenation_keeps_each_index_apart():
  params = {"a": np.ones((4, 2)), "b": np.ones((4, 3)), "c": np.ones((5, 2))}

  def apply(p, x):
    return jnp.concatenate([x @ p["a"], x @ p["b"]], -1) @ p["c"]

  groups = coupling.coupling(apply, params, np.ones((1, 4)))
  assert members(groups, "c", 0, 1).keys() == {("a", 1, 1), ("c", 0, 1)}
  assert members(groups, "c", 0, 2).keys() == {("b", 1, 0), ("c", 0, 2)}


def test_flattening_couples_all_pixels_of_a_channel():
  params = {"a": np.ones((3, 3, 1, 2)), "b": np.ones((2 * 2 * 2, 5))}

  def apply(p, x):
    y = lax.conv_general_dilated(
      x, p["a"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y.reshape(y.shape[0], -1) @ p["b"]

  groups = coupling.coupling(apply, params, np.ones((1, 2, 2, 1)))
  assert members(groups, "a", 3, 1).keys() == {
    ("a", 3, 1),
    *(("b", 0, pixel * 2 + 1) for pixel in range(4)),
  }


def test_heads_that_a_reshape_splits_stay_whole():
  params = {"v": np.ones((4, 6)), "out": np.ones((6, 4))}

  def apply(p, x):
    v = (x @ p["v"]).reshape(*x.shape[:-1], 3, 2)
    v = jnp.einsum("bthd,bts->bshd", v, x @ x.swapaxes(1, 2))
    return v.reshape(x.shape[0], -1, 6) @ p["out"]

  groups = coupling.coupling(apply, params, np.ones((2, 5, 4)))
  assert members(groups, "v", 1, 2).keys() == {
    ("v", 1, 2),
    ("v", 1, 3),
    ("out", 0, 2),
    ("out", 0, 3),
  }
  assert not groups.frozen[groups.of["v"][1]].any()


def test_attention_of_linen_couples_heads_and_their_channels():
  model = nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=6)
  x = float32(1, 5, 4)
  variables = jax.eval_shape(model.init, jax.random.key(0), x)
  groups = coupling.coupling(model.apply, variables, x)
  heads = members(groups, "params/out/kernel", 0, 1)
  assert {leaf.split("/")[1] for leaf, _, _ in heads} == {
    "query",
    "key",
    "value",
    "out",
  }
  channels = members(groups, "params/out/kernel", 1, 2)
  assert {leaf.split("/")[1] for leaf, _, _ in channels} == {"value", "out"}
  of_query = groups.of["params/query/kernel"]
  assert not groups.frozen[of_query[1]].any()
  assert not groups.frozen[of_query[2]].any()


def test_stacked_layers_share_channels_and_keep_their_axis():
  params = {"up": np.ones((3, 4, 6)), "down": np.ones((3, 6, 4))}

  def apply(p, x):
    def layer(x, kernels):
      return x + jax.nn.gelu(x @ kernels["up"]) @ kernels["down"], x.mean()

    return lax.scan(jax.checkpoint(layer), x, p)

  groups = coupling.coupling(apply, params, np.ones((2, 4)))
  found = members(groups, "up", 2, 5)
  assert found == {("up", 2, 5): Role.WRITER, ("down", 1, 5): Role.READER}
  assert groups.reasons(groups.of["up"][0][0]) == ("an axis of layers",)
  assert not groups.frozen[groups.of["up"][2]].any()


def test_embeddings_write_the_stream():
  params = {"table": np.ones((7, 4)), "a": np.ones((4, 3))}
  groups = coupling.coupling(
    lambda p, tokens: p["table"][tokens] @ p["a"],
    params,
    np.zeros((2, 5), np.int32),
  )
  assert members(groups, "a", 0, 1) == {
    ("table", 1, 1): Role.WRITER,
    ("a", 0, 1): Role.READER,
  }
  assert groups.reasons(groups.of["table"][0][0]) == ("a lookup",)


def test_masked_and_reparametrized_kernels_are_still_kernels():
  params = {"a": np.ones((4, 6)), "gain": np.ones(6), "b": np.ones((6, 2))}

  def apply(p, x):
    kernel = (p["a"] * np.ones((4, 6), bool)) * p["gain"]
    return x @ kernel @ p["b"]

  groups = coupling.coupling(apply, params, np.ones((1, 4)))
  assert members(groups, "a", 1, 5) == {
    ("a", 1, 5): Role.WRITER,
    ("gain", 0, 5): Role.ELEMENTWISE,
    ("b", 0, 5): Role.READER,
  }


@pytest.mark.parametrize("library", ["nnx", "equinox"])
def test_other_libraries(library):
  if library == "nnx":
    model = nnx.Sequential(
      nnx.Linear(4, 6, rngs=nnx.Rngs(0)),
      nnx.relu,
      nnx.Linear(6, 3, rngs=nnx.Rngs(1)),
    )
    graph, params = nnx.split(model)

    def apply(params, x):
      return nnx.merge(graph, params)(x)

    (first,) = (
      name
      for name, leaf in zip(
        coupling.coupling(apply, params, np.ones((1, 4))).of,
        jax.tree.leaves(params),
        strict=True,
      )
      if leaf.shape == (4, 6)
    )
    axis = 1
  else:
    layers = eqx.nn.MLP(4, 3, 6, 1, key=jax.random.key(0))
    params, static = eqx.partition(layers, eqx.is_array)

    def apply(params, x):
      return jax.vmap(eqx.combine(params, static))(x)

    first, axis = "layers/0/weight", 0
  groups = coupling.coupling(apply, params, np.ones((1, 4), np.float32))
  found = members(groups, first, axis, 5)
  assert sorted(found.values()) == [
    Role.ELEMENTWISE,
    Role.WRITER,
    Role.READER,
  ]


def test_a_symbolic_batch_gives_the_same_groups():
  model = MODELS["vgg_c"](10, width=0.05)
  image = float32(1, 32, 32, 3)
  variables = jax.eval_shape(
    lambda x: model.init(jax.random.key(0), x, train=False), image
  )

  def groups(batch):
    x = float32(batch, 32, 32, 3)
    return coupling.coupling(
      lambda v, x: model.apply(v, x, train=False), variables, x
    )

  (batch,) = jax.export.symbolic_shape("b")
  a, b = groups(2), groups(batch)
  assert all(
    np.array_equal(x, y)
    for name in a.of
    for x, y in zip(a.of[name], b.of[name], strict=True)
  )
  assert np.array_equal(a.frozen, b.frozen)
