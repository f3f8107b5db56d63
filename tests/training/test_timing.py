"""The time of mask updates, worked by hand."""

import pytest

from sparsejax.training.reporting import timing


def test_time_of_a_mask_update_is_what_it_adds_to_a_dispatch():
  given = [
    (10, 1, 9.0),  # Warm-up, ignored.
    (10, 0, 1.0),
    (10, 2, 1.5),  # 0.25 each.
    (10, 0, 1.25),
    (10, 1, 1.75),  # 0.5
    (10, 0, 4.0),  # An outlier: the machine was busy.
    (10, 1, 2.0),  # 0.75
    (3, 1, 0.5),  # No other dispatch of 3 steps.
  ]
  dispatches = [timing.Dispatch(*each) for each in given]
  assert timing.mask_update_seconds(dispatches) == 0.5


def test_dispatches_are_compared_by_their_number_of_updates():
  given = [(10, 2, 9.0), (10, 2, 2.0), (10, 3, 2.5), (10, 2, 2.0), (10, 4, 3.5)]
  dispatches = [timing.Dispatch(*each) for each in given]
  assert timing.mask_update_seconds(dispatches) == 0.625  # of 0.5 and 0.75


@pytest.mark.parametrize(
  "given",
  [
    [],
    [(10, 1, 1.0)],
    [(10, 1, 1.0), (10, 1, 1.0)],
    [(10, 0, 1.0), (10, 0, 1.0)],
    [(10, 0, 1.0), (10, 1, 1.0)],
    [(10, 0, 1.0), (10, 0, 1.0), (5, 1, 1.0)],
  ],
)
def test_none_without_two_comparable_dispatches(given):
  dispatches = [timing.Dispatch(*each) for each in given]
  assert timing.mask_update_seconds(dispatches) is None


def test_time_is_never_negative():
  given = [(5, 0, 1.0), (5, 0, 1.0), (5, 1, 0.75)]
  dispatches = [timing.Dispatch(*each) for each in given]
  assert timing.mask_update_seconds(dispatches) == 0.0
