"""Programs for pods, compiled without one: memory, and what is sent.

ResNet-50: mask updates of its kernels, sharded by fsdp, and the trainer's step
on ImageNet.
"""

import collections

import jax
import pytest
from helpers import pods

pytestmark = pytest.mark.pods
SMALL = 4096  # bytes of counts; the smallest mask has 36,864


@pytest.fixture(scope="module", autouse=True)
def cpu():
  """Without this JAX looks for the accelerators of the plugins."""
  jax.config.update("jax_platforms", "cpu")


def check_counts_only(begin, update):
  """Random first masks are counted, too."""
  assert update.collectives != []
  for name, size in (*begin.collectives, *update.collectives):
    assert name == "all-reduce" and size <= SMALL


@pytest.mark.parametrize("pod", pods.PODS)
@pytest.mark.parametrize("method", ["granet", "rigl"])
def test_mask_updates_send_counts_only(pod, method):
  check_counts_only(*pods.mask_updates(pod, method, pods.FEW))


@pytest.mark.parametrize("pod", pods.PODS)
def test_so_do_those_of_resnet50_and_memory_is_divided(pod):
  begin, update = pods.mask_updates(pod, "gmp")
  check_counts_only(begin, update)
  # Weights, gradients, momentum and the updates are 4 bytes a weight each, old
  # and new masks 1; of 25.5 million weights a device has an eighth or less.
  weights = 25_502_912 / min(16, pods.PODS[pod].shape[1])
  assert begin.memory < 2 * 9 * weights
  assert update.memory < 2 * 18 * weights


@pytest.mark.parametrize("pod", pods.PODS)
def test_the_train_step_fits(pod):
  assert pods.train_step(pod, "granet").memory < pods.PODS[pod].memory


@pytest.mark.parametrize("pod", pods.COMPARED)
def test_the_train_step_sends_what_the_dense_one_does(pod):
  def sent(method):
    # By kind: how XLA joins the gradients differs a little between programs.
    found = pods.train_step(pod, method).collectives
    return collections.Counter(kind for kind, _ in found)

  assert sent("granet") <= sent("dense")
