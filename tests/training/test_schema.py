"""A factory's signature says what its section of a config may hold."""

import pytest
from ml_collections import ConfigDict

from sparsejax import command_line
from sparsejax.training.config import schema


def round_way():
  """A named function."""


def square_way():
  """Another."""


def cake(
  sugar: float,
  *,
  eggs: int | None = None,
  bake_steps: int,
  rest_step: int = 3,
  way=round_way,
  layers: tuple[int, ...] = (1, 2),
  glaze: bool = True,
  total_steps: int,
):
  """A factory with one argument of each sort."""
  return dict(locals())


KIND = schema.Kind(
  "food",
  {"cake": cake},
  named={"way": {"round": round_way, "square": square_way}},
)
FED = {"steps_per_epoch": 10, "total_steps": 100, "classes": 2}


def filled(**given):
  return ConfigDict(schema.section(KIND, "cake", given)).to_dict()


def call(**given):
  return schema.call(KIND, "config.food", filled(**given), FED)


def test_a_section_holds_every_argument_with_its_default():
  assert filled(sugar=0.5) == {
    "name": "cake",
    "sugar": 0.5,
    "eggs": None,
    "bake_steps": None,
    "bake_epochs": None,
    "rest_step": None,
    "rest_epochs": None,
    "way": "round",
    "layers": (1, 2),
    "glaze": True,
  }


def test_a_call_gets_steps_functions_and_what_is_fed():
  assert call(sugar=1.0, bake_epochs=2.5, way="square", layers=(3,)) == {
    "sugar": 1.0,
    "eggs": None,
    "bake_steps": 25,
    "rest_step": 3,
    "way": square_way,
    "layers": (3,),
    "glaze": True,
    "total_steps": 100,
  }


@pytest.mark.parametrize(
  ("given", "steps"),
  [
    ({"bake_epochs": 0.01}, 1),
    ({"bake_epochs": 0.0}, 0),
    ({"bake_epochs": 3.0, "bake_steps": 7}, 7),
    ({"bake_steps": 0}, 0),
  ],
)
def test_steps_win_and_a_positive_duration_is_at_least_one(given, steps):
  assert call(sugar=1.0, **given)["bake_steps"] == steps


def test_placeholders_are_typed():
  config = ConfigDict(schema.section(KIND, "cake", {}))
  config.eggs = 3
  with pytest.raises(TypeError):
    config.eggs = "three"
  config.sugar = 2
  assert isinstance(config.sugar, float)


@pytest.mark.parametrize(
  ("given", "message"),
  [
    ({"suggar": 1.0}, "Did you mean 'sugar'"),
    ({"total_steps": 5}, "An argument of food 'cake' got 'total_steps'"),
  ],
)
def test_unknown_arguments_are_refused(given, message):
  with pytest.raises(command_line.InputError, match=message):
    filled(**given)


@pytest.mark.parametrize(
  ("given", "message"),
  [
    ({"bake_steps": 1}, "`config.food.sugar` is missing"),
    ({"sugar": 1.0}, "`config.food.bake_steps` or `config.food.bake_epochs`"),
    (
      {"sugar": 1.0, "bake_epochs": -1.0},
      "`config.food.bake_epochs` must not be negative, got -1.0",
    ),
    (
      {"sugar": 1.0, "bake_steps": 1, "way": "rond"},
      "`config.food.way` got 'rond'. Did you mean 'round'",
    ),
  ],
)
def test_values_that_do_not_fit_are_refused(given, message):
  with pytest.raises(command_line.InputError, match=message):
    call(**given)


def test_an_unknown_name_is_refused_with_the_nearest():
  with pytest.raises(command_line.InputError, match="Did you mean 'cake'"):
    schema.section(KIND, "cakes", {})
  with pytest.raises(
    command_line.InputError, match="`config.food.name` got 'pie'"
  ):
    schema.call(KIND, "config.food", {"name": "pie"}, FED)


def test_a_factory_that_refuses_a_value_is_quoted():
  def fussy(*, salt: float):
    raise ValueError(f"`salt` must be less than 1, got {salt}.")

  kind = schema.Kind("food", {"fussy": fussy})
  section = {"name": "fussy", "salt": 2.0}
  with pytest.raises(
    command_line.InputError, match="of 'fussy': `salt` must be"
  ):
    schema.call(kind, "config.food", section, {})
