"""Programs for pods, compiled without one: memory, and what is sent.

ResNet-50: mask updates of its kernels, sharded by fsdp, and the trainer's step
on ImageNet.
"""

import collections

import jax
import pytest
from helpers import pods

pytestmark = pytest.mark.pods
SMALL = 4096  # bytes of counts; the least mask of a 3x3 kernel has 36,864


@pytest.fixture(scope="module", autouse=True)
def cpu():
  """Without this JAX looks for the accelerators of the plugins."""
  jax.config.update("jax_platforms", "cpu")


@pytest.mark.parametrize(
  "pod, method",
  [*((pod, "gmp") for pod in pods.PODS), ("v5e 4x4", "granet")],
)
def test_a_mask_update_sends_counts_only(pod, method):
  begin, update = pods.mask_updates(pod, method)
  assert begin.collectives == []
  assert {name for name, _ in update.collectives} == {"all-reduce"}
  assert max(size for _, size in update.collectives) <= SMALL
  # Weights, momentum and gradients are 12 bytes a weight and masks 1, old and
  # new; of 25.5 million weights a device has an eighth or less.
  weights = 25_502_912 / min(16, pods.PODS[pod].shape[1])
  assert begin.memory < 2 * 13 * weights
  assert update.memory < 2 * 21 * weights


@pytest.mark.parametrize("pod", pods.PODS)
def test_the_train_step_fits(pod):
  assert pods.train_step(pod, "granet").memory < pods.PODS[pod].memory


def test_the_train_step_sends_what_the_dense_one_does():
  def sent(method):
    return collections.Counter(pods.train_step("v5e 4x4", method).collectives)

  assert sent("granet") <= sent("dense")
