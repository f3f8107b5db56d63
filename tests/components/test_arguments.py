"""One line that says what is wrong, for what is easily mixed up."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import optax
import pytest
from flax import nnx

import sparsejax

SGD, KEY = optax.sgd(0.1), jax.random.key(0)
RIGL = sparsejax.rigl(0.9, end_step=10)
PARAMS = {"kernel": jnp.ones((8, 8))}


def state():
  return sparsejax.sparsify(SGD, RIGL, key=KEY).init(PARAMS)


class Net(nnx.Module):
  """A model with a random key."""

  def __init__(self):
    self.linear = nnx.Linear(4, 4, rngs=nnx.Rngs(0))
    self.drop = nnx.Dropout(0.1, rngs=nnx.Rngs(0))


MISTAKES = {
  "int as key": (
    lambda: sparsejax.sparsify(SGD, RIGL, key=0),
    r"`key` must be a random key, got 0.*jax.random.key\(0\)",
  ),
  "swapped": (
    lambda: sparsejax.sparsify(RIGL, SGD),
    "arguments are swapped.*sparsify",
  ),
  "method by name": (
    lambda: sparsejax.sparsify(SGD, "rigl"),
    "`method` must be a method, got the string 'rigl'.*sparsejax.rigl",
  ),
  "method not called": (
    lambda: sparsejax.sparsify(SGD, sparsejax.rigl),
    "got the function rigl. Call one",
  ),
  "optimizer not called": (
    lambda: sparsejax.sparsify(optax.sgd, RIGL),
    "`inner` must be an optimizer, got the function sgd. Call it",
  ),
  "optimizer by name": (
    lambda: sparsejax.sparsify("sgd", RIGL),
    "`inner` must be an optimizer, got the string 'sgd'",
  ),
  "overrides as a list": (
    lambda: sparsejax.sparsify(SGD, RIGL, overrides=["kernel"]),
    "`overrides` must map globs",
  ),
  "distribution by name": (
    lambda: sparsejax.rigl(0.9, end_step=9, distribution="erk"),
    "`distribution` must be a function such as sparsejax.erk",
  ),
  "scope by name": (
    lambda: sparsejax.gmp(0.9, end_step=9, every_steps=2, scope="global"),
    "`scope` must be a `Scope`, got the string 'global'",
  ),
  "curve by name": (
    lambda: sparsejax.gmp(0.9, end_step=9, every_steps=2, curve="cubic"),
    "`curve` must be a function",
  ),
  "storage by name": (
    lambda: sparsejax.gmp(0.9, end_step=9, every_steps=2, storage="kept"),
    "`storage` must be a `Storage`",
  ),
  "criterion by name": (
    lambda: sparsejax.rigl(0.9, end_step=9, regrow_by="random"),
    "`by` must be a `Criterion`, got the string 'random'",
  ),
  "keep_alive swapped": (
    lambda: sparsejax.keep_alive(1, sparsejax.global_scope),
    "`scope` must be a `Scope`, got 1.*keep_alive",
  ),
  "sparsity as text": (
    lambda: sparsejax.rigl("0.9", end_step=9),
    "`sparsity` must be a number in",
  ),
  "no steps": (
    lambda: sparsejax.rigl(0.9, end_step=None),
    "`end_step` must be a whole number of optimizer steps.*got None",
  ),
  "lookahead inside": (
    lambda: sparsejax.sparsify(
      optax.lookahead(SGD, 5, 0.5), RIGL, key=KEY
    ).init(PARAMS),
    "`inner` must not be `lookahead`",
  ),
  "sm3 inside": (
    lambda: sparsejax.sparsify(optax.sm3(0.1), RIGL, key=KEY).init(PARAMS),
    "`inner` must keep a state like the parameters",
  ),
  "a whole Equinox model": (
    lambda: sparsejax.sparsify(SGD, RIGL, key=KEY).init(
      eqx.nn.MLP(4, 4, 8, 1, key=KEY)
    ),
    "got the function relu at 'activation'.*eqx.filter",
  ),
  "a whole NNX model": (
    lambda: sparsejax.sparsify(SGD, RIGL, key=KEY).init(Net()),
    "got a random key at 'drop/rngs/key'.*nnx.Optimizer",
  ),
  "update without gradients": (
    lambda: sparsejax.sparsify(SGD, RIGL, key=KEY).update(
      None, state(), PARAMS
    ),
    "`update` takes gradients and the state.*got None and",
  ),
  "update with another state": (
    lambda: sparsejax.sparsify(SGD, RIGL, key=KEY).update(
      PARAMS, PARAMS, state()
    ),
    "`update` takes gradients and the state.*got a dict and a dict",
  ),
}


@pytest.fixture
def as_users_run_it():
  """Turns off the type checks that only tests have."""
  jaxtyping.config.update("jaxtyping_disable", True)
  yield
  jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.filterwarnings("ignore")  # Of optax's lookahead.
@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_end_in_one_line(name):
  make, message = MISTAKES[name]
  with pytest.raises(ValueError, match=message):
    make()
