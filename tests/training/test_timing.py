"""What the clock tells of dispatches, by hand."""

import pytest

from sparsejax.training.reporting import timing


def test_a_mask_update_costs_what_it_adds_to_a_dispatch():
  told = [
    (10, 1, 9.0),  # Warms up, and does not count.
    (10, 0, 1.0),
    (10, 2, 1.5),  # 0.25 each.
    (10, 0, 1.25),
    (10, 1, 1.75),  # 0.5
    (10, 0, 4.0),  # The machine had other things to do.
    (10, 1, 2.0),  # 0.75
    (3, 1, 0.5),  # None of as many steps has fewer.
  ]
  dispatches = [timing.Dispatch(*each) for each in told]
  assert timing.mask_update_seconds(dispatches) == 0.5


def test_dispatches_that_all_hold_updates_are_compared_by_their_number():
  told = [(10, 2, 9.0), (10, 2, 2.0), (10, 3, 2.5), (10, 2, 2.0), (10, 4, 3.5)]
  dispatches = [timing.Dispatch(*each) for each in told]
  assert timing.mask_update_seconds(dispatches) == 0.625  # of 0.5 and 0.75


@pytest.mark.parametrize(
  "told",
  [
    [],
    [(10, 1, 1.0)],
    [(10, 1, 1.0), (10, 1, 1.0)],
    [(10, 0, 1.0), (10, 0, 1.0)],
    [(10, 0, 1.0), (10, 1, 1.0)],
    [(10, 0, 1.0), (10, 0, 1.0), (5, 1, 1.0)],
  ],
)
def test_there_is_no_number_without_a_pair(told):
  dispatches = [timing.Dispatch(*each) for each in told]
  assert timing.mask_update_seconds(dispatches) is None


def test_an_update_does_not_save_time():
  told = [(5, 0, 1.0), (5, 0, 1.0), (5, 1, 0.75)]
  dispatches = [timing.Dispatch(*each) for each in told]
  assert timing.mask_update_seconds(dispatches) == 0.0
