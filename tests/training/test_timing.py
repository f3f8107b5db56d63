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


@pytest.mark.parametrize(
  "given",
  [
    [(5, 0, 1.0), (5, 0, 1.0), (5, 1, 0.75)],
    [(5, 0, 1.0), (5, 0, 1.0), (5, 1, 1.0)],
    [(5, 0, 1.0), (5, 0, 1.0), (5, 1, 0.9), (5, 1, 1.25), (5, 1, 1.25)],
  ],
)
def test_none_where_other_things_take_more_time(given):
  dispatches = [timing.Dispatch(*each) for each in given]
  assert timing.mask_update_seconds(dispatches) is None


def test_the_clock_continues_the_sums_of_the_row_that_is_kept():
  clock = timing.Clock()
  clock.started()
  with clock.phase("step"):
    pass
  first = clock.row()
  earlier = first | {
    "run_began_seconds": first["run_began_seconds"] - 100.0,
    "run_step_seconds": 40.0,
    "run_save_seconds": 2.0,
  }
  again = timing.Clock()
  again.resume(earlier)
  found = again.row()
  assert found["run_step_seconds"] == 40.0
  assert found["run_save_seconds"] == 2.0
  assert found["run_began_seconds"] == earlier["run_began_seconds"]
  assert found["run_elapsed_seconds"] >= 100.0
  assert found.keys() == first.keys()


def test_elapsed_time_is_at_least_the_sum_of_all_phases():
  clock = timing.Clock()
  row = clock.row() | {"run_step_seconds": 1e6}
  clock.resume(row | {"run_began_seconds": row["run_began_seconds"] + 1e6})
  assert clock.row()["run_elapsed_seconds"] >= 1e6
