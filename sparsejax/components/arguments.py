"""Checks of the numbers that users pass."""


def check_sparsity(sparsity: float, argument: str = "sparsity") -> None:
  """Raises ValueError unless `sparsity` is a fraction of zeros in [0, 1)."""
  if not 0 <= sparsity < 1:
    hint = f" Give a fraction: {sparsity / 100}." if 1 < sparsity < 100 else ""
    raise ValueError(f"`{argument}` must be in [0, 1), got {sparsity}.{hint}")


def check_fraction(value: float, argument: str) -> None:
  """Raises ValueError unless `value` is in [0, 1]."""
  if not 0 <= value <= 1:
    raise ValueError(
      f"`{argument}` must be a share in [0, 1], got {value}. Give a fraction"
      " such as 0.3."
    )


def check_steps(argument: str, value: int, least: int = 1) -> None:
  """Raises ValueError unless `value` is a whole number of at least `least`."""
  if isinstance(value, bool) or value != int(value) or value < least:
    raise ValueError(
      f"`{argument}` must be a whole number of optimizer steps, at least"
      f" {least}, got {value!r}."
    )
