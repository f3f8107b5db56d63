"""The models are what their names say, and their sizes are as documented."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsejax.models import MODELS, cnn, mlp
from sparsejax.models.cnn import _convolve

IMAGES = jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32)


def shapes(model):
  variables = jax.eval_shape(
    lambda x: model.init(jax.random.key(0), x, train=False), IMAGES
  )
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
    for path, leaf in jax.tree.leaves_with_path(variables["params"])
  }


def test_mlp_on_digits_is_64_256_256_10():
  assert shapes(mlp(10)) == {
    "Dense_0/bias": (256,),
    "Dense_0/kernel": (64, 256),
    "Dense_1/bias": (256,),
    "Dense_1/kernel": (256, 256),
    "Dense_2/bias": (10,),
    "Dense_2/kernel": (256, 10),
  }


def test_cnn_has_a_kernel_for_each_stage():
  found = shapes(cnn(10, channels=(4, 6)))
  assert found["Conv_0/kernel"] == (3, 3, 1, 4)
  assert found["Conv_1/kernel"] == (3, 3, 4, 6)
  assert found["Dense_0/kernel"] == (6, 10)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_models_give_float32_logits(name):
  model = MODELS[name](7)
  logits = jax.eval_shape(
    lambda x: model.init_with_output(jax.random.key(0), x, train=False)[0],
    IMAGES,
  )
  assert (logits.shape, logits.dtype) == ((2, 7), jnp.float32)


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_by_shifts_is_the_convolution(size, stride):
  x = jax.random.normal(jax.random.key(0), (2, size, size, 3))
  kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, 5))
  strides = (stride, stride)
  wanted = jax.lax.conv_general_dilated(
    x, kernel, strides, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  found = _convolve(x, kernel, strides, "SAME")
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  ("factory", "name", "value"),
  [(mlp, "hidden", ()), (mlp, "hidden", (8, 0)), (cnn, "channels", (0,))],
)
def test_sizes_that_cannot_be_are_refused(factory, name, value):
  with pytest.raises(ValueError, match=f"`{name}` must hold positive"):
    factory(10, **{name: value})
