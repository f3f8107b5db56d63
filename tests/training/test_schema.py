"""A factory's signature is the schema of its section of a config."""

import inspect

import pytest
from ml_collections import ConfigDict

import sparsejax
from sparsejax import command_line
from sparsejax.training.config import schema, sections


def round_way():
  """A choice."""


def square_way():
  """Another choice."""


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
  """A factory with one parameter of each kind."""
  return dict(locals())


KIND = schema.Kind(
  "food",
  {"cake": cake},
  choices={
    "way": schema.Choice({"round": round_way, "square": square_way}, "round")
  },
)
PROVIDED = {"steps_per_epoch": 10, "total_steps": 100, "classes": 2}


def filled(**given):
  return ConfigDict(schema.section(KIND, "cake", given)).to_dict()


def call(**given):
  return schema.call(KIND, "config.food", filled(**given), PROVIDED)


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


def test_a_call_gets_steps_choices_and_provided_values():
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
def test_steps_win_and_a_positive_duration_is_at_least_one_step(given, steps):
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
def test_unknown_arguments_raise(given, message):
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
def test_invalid_values_raise(given, message):
  with pytest.raises(command_line.InputError, match=message):
    call(**given)


def test_an_unknown_name_raises_with_the_nearest():
  with pytest.raises(command_line.InputError, match="Did you mean 'cake'"):
    schema.section(KIND, "cakes", {})
  with pytest.raises(
    command_line.InputError, match="`config.food.name` got 'pie'"
  ):
    schema.call(KIND, "config.food", {"name": "pie"}, PROVIDED)


def test_the_error_of_a_factory_is_quoted():
  def fussy(*, salt: float):
    raise ValueError(f"`salt` must be less than 1, got {salt}.")

  kind = schema.Kind("food", {"fussy": fussy})
  section = {"name": "fussy", "salt": 2.0}
  with pytest.raises(
    command_line.InputError, match="of 'fussy': `salt` must be"
  ):
    schema.call(kind, "config.food", section, {})


@pytest.mark.parametrize("title", sorted(sections.KINDS))
def test_named_defaults_are_those_of_the_signatures(title):
  kind = sections.KINDS[title]
  for name, factory in kind.factories.items():
    section = ConfigDict(schema.section(kind, name, {})).to_dict()
    parameters = inspect.signature(factory).parameters
    for key in kind.choices.keys() & section.keys():
      default = parameters[key].default
      chosen = kind.choices[key].values.get(section[key])
      assert chosen is default, (name, key)


def test_choices_name_factories_that_have_the_parameter():
  for kind in sections.KINDS.values():
    for key, choice in kind.choices.items():
      assert choice.default in choice.values
      for name, default in choice.defaults.items():
        assert schema.takes(kind, name, key) and default in choice.values


def test_fill_sets_arguments_without_a_default():
  fill = {"bake_epochs": 2.0, "rest_epochs": 1.0, "eggs": 4, "salt": 1}
  section = ConfigDict(schema.section(KIND, "cake", {}, fill)).to_dict()
  assert section["bake_epochs"] == 2.0 and section["eggs"] == 4
  assert section["rest_epochs"] is None and "salt" not in section


def test_given_arguments_win_over_fill():
  given, fill = {"bake_steps": 3, "eggs": None}, {"bake_epochs": 2.0, "eggs": 4}
  section = ConfigDict(schema.section(KIND, "cake", given, fill)).to_dict()
  assert (section["bake_steps"], section["bake_epochs"]) == (3, None)
  assert section["eggs"] is None


def test_a_learning_rate_follows_that_of_the_weights():
  def factory(*, score_learning_rate: float):
    return score_learning_rate

  kind = schema.Kind("food", {"factory": factory})
  for given, expected in ((None, 0.1), (0.5, 0.5)):
    values = {"name": "factory", "score_learning_rate": given}
    found = schema.call(kind, "config.food", values, {"learning_rate": 0.1})
    assert found == expected


def test_a_nested_section_holds_the_arguments_of_its_factory():
  method = sections.KINDS["method"]
  given = {"sparsity": 0.5, "end_step": 4, "every_steps": 2}

  def filled(**more):
    return ConfigDict(schema.section(method, "gmp", given | more)).to_dict()

  plain = filled()
  assert plain["granularity"] == {"name": "weights"}
  named = filled(granularity="blocks")
  assert named["granularity"] == {"name": "blocks", "height": 16, "width": 16}
  named["granularity"]["height"] = 4
  found = schema.call(method, "config.method", named, {})
  assert found.granularity is sparsejax.blocks(height=4, width=16)
  assert schema.call(method, "config.method", plain, {}) is not None
  named["granularity"] = {"name": "bricks"}
  with pytest.raises(command_line.InputError, match="granularity.name"):
    schema.call(method, "config.method", named, {})
