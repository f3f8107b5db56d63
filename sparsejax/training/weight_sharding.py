"""Where weights lie on a mesh, and with them all that belongs to them.

The rules of `config.mesh.rules` have the form `GLOB=AXES`, with `fsdp`,
`tensor`, `fsdp+tensor` or `none` for each dimension of a parameter, such as
`mlp/*/kernel=fsdp,tensor`. The first whose glob matches the name of a parameter
decides. Without one, a large parameter is sharded over `fsdp`, along
the largest dimension that `fsdp` divides.
"""

import fnmatch
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from sparsejax import command_line
from sparsejax.components import trees
from sparsejax.training import sharding

# Smaller parameters are not worth the messages: each costs a gather per step.
_LARGE = 2**14


class Rule(NamedTuple):
  """Where some parameters lie.

  Attributes:
    glob: of their names.
    axes: for each dimension, the axes of the mesh that it is sharded over.
  """

  glob: str
  axes: tuple[tuple[str, ...], ...]


def parse(rules: Sequence[str]) -> list[Rule]:
  """Parse `config.mesh.rules`.

  Args:
    rules: items of the form `GLOB=AXES`.

  Returns:
    The rules, in their order.

  Raises:
    InputError: if an item has another form, or repeats an axis.
  """
  return [_parse(rule) for rule in rules]


def shardings(
  params: Any, mesh: Mesh | AbstractMesh, rules: Sequence[str]
) -> Any:
  """Find where the parameters lie.

  Args:
    params: tree of arrays or of their shapes.
    mesh: device mesh.
    rules: `config.mesh.rules`.

  Returns:
    A tree of shardings like the parameters.

  Raises:
    InputError: if a rule matches no parameter, or does not fit one.
  """
  parsed, named = parse(rules), trees.named_leaves(params)
  names = [name for name, _ in named]
  for rule in parsed:
    if not any(fnmatch.fnmatchcase(name, rule.glob) for name in names):
      raise command_line.InputError(
        f"`config.mesh.rules`: {rule.glob!r} matches no parameter. Parameters:"
        f" {', '.join(names)}."
      )

  def place(name: str, shape: tuple[int, ...]) -> NamedSharding:
    for rule in parsed:
      if fnmatch.fnmatchcase(name, rule.glob):
        return NamedSharding(mesh, _spec(name, shape, rule, mesh))
    return NamedSharding(mesh, _default(shape, mesh))

  return jax.tree.unflatten(
    jax.tree.structure(params), [place(name, x.shape) for name, x in named]
  )


def follow(
  tree: Any, params: Any, placed: Any, mesh: Mesh | AbstractMesh
) -> Any:
  """Find where a tree lies that holds parameters, and what belongs to them.

  A leaf belongs to a parameter if its path ends with the parameter's and it has
  the same shape: masks, accumulators, latent weights, averages, and momentum.
  Other leaves are replicated.

  Args:
    tree: arrays or their shapes.
    params: the parameters or their shapes.
    placed: the shardings of the parameters, a tree like them.
    mesh: device mesh.

  Returns:
    A tree of shardings like `tree`.
  """
  places = {
    (_keys(path), leaf.shape): place
    for (path, leaf), place in zip(
      jax.tree.leaves_with_path(params), jax.tree.leaves(placed), strict=True
    )
  }
  whole = sharding.replicated(mesh)

  def place(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
    keys = _keys(path)
    ends = ((keys[i:], leaf.shape) for i in range(len(keys)))
    return next((places[end] for end in ends if end in places), whole)

  return jax.tree.map_with_path(place, tree)


def gatherer(placed: Any, stacked: Iterable[str] = ()) -> Callable[[Any], Any]:
  """Returns a function that gathers parameters over `fsdp` inside jit.

  Their gradient is summed to where they lie. Those of stacked layers stay where
  they lie: all layers at once may not fit on a device, so XLA gathers each when
  the loop over the layers reaches it.

  Args:
    placed: the shardings of the parameters.
    stacked: globs of the names of parameters with an axis of layers.
  """
  stays = jax.tree.unflatten(
    jax.tree.structure(placed),
    [
      any(fnmatch.fnmatchcase(name, glob) for glob in stacked)
      for name, _ in trees.named_leaves(placed)
    ],
  )
  return lambda params: jax.tree.map(
    lambda x, place, stay: x if stay else _gather(x, place),
    params,
    placed,
    stays,
  )


def _gather(param: jax.Array, place: NamedSharding) -> jax.Array:
  whole = NamedSharding(place.mesh, _without_fsdp(place.spec))
  if whole.is_equivalent_to(place, param.ndim):
    return param

  @jax.custom_vjp
  def gather(x: jax.Array) -> jax.Array:
    return jax.lax.with_sharding_constraint(x, whole)

  gather.defvjp(
    lambda x: (gather(x), None),
    lambda _, grad: (jax.lax.with_sharding_constraint(grad, place),),
  )
  return gather(param)


def _without_fsdp(spec: PartitionSpec) -> PartitionSpec:
  def without(axes: str | tuple[str, ...] | None) -> tuple[str, ...]:
    several = axes if isinstance(axes, tuple) else (axes,)
    return tuple(axis for axis in several if axis not in (None, "fsdp"))

  return PartitionSpec(*map(without, spec))


def _parse(rule: str) -> Rule:
  glob, _, text = rule.rpartition("=")
  axes = tuple(
    () if each == "none" else tuple(each.split("+")) for each in text.split(",")
  )
  flat = [axis for each in axes for axis in each]
  if not glob or not set(flat) <= {"fsdp", "tensor"}:
    raise command_line.InputError(
      "`config.mesh.rules` must hold items like 'mlp/*/kernel=fsdp,tensor',"
      f" with fsdp, tensor or none for each dimension, got {rule!r}."
    )
  if len(set(flat)) < len(flat):
    raise command_line.InputError(
      "`config.mesh.rules` must name an axis once for a parameter, got"
      f" {rule!r}."
    )
  return Rule(glob, axes)


def _spec(
  name: str, shape: tuple[int, ...], rule: Rule, mesh: Mesh | AbstractMesh
) -> PartitionSpec:
  if len(rule.axes) > len(shape):
    raise command_line.InputError(
      f"`config.mesh.rules`: {rule.glob!r} names {len(rule.axes)} dimensions,"
      f" but {name} has the shape {shape}."
    )
  spec = PartitionSpec(*rule.axes)
  try:
    NamedSharding(mesh, spec).shard_shape(shape)
  except ValueError as error:
    axes = ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    raise command_line.InputError(
      f"`config.mesh.rules`: the mesh ({axes}) does not divide the dimensions"
      f" of {name}, {shape}, as {rule.glob!r} says. Use none for the dimension"
      " that it does not divide."
    ) from error
  return spec


def _default(
  shape: tuple[int, ...], mesh: Mesh | AbstractMesh
) -> PartitionSpec:
  parts = mesh.shape["fsdp"]
  divisible = [d for d, length in enumerate(shape) if length % parts == 0]
  if parts == 1 or math.prod(shape) < _LARGE or not divisible:
    return PartitionSpec()
  axis = max(divisible, key=lambda d: shape[d])
  return PartitionSpec(*[()] * axis, ("fsdp",))


def _keys(path: tuple[Any, ...]) -> tuple[str, ...]:
  return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)
