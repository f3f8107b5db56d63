"""On four devices, the methods that the ordinary tests leave out."""

import pytest
from test_sharding import check_masks, check_places, run

pytestmark = pytest.mark.pods


def test_masks_are_those_of_one_device_and_stay_in_place():
  runs = run("others")["runs"]
  check_masks(runs)
  check_places(runs)
