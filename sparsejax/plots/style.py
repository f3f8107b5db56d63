"""Colors, markers and axes that the figures share."""

import importlib.util
from collections.abc import Sequence
from typing import Any

# A palette for color-blind readers (Okabe and Ito, 2008).
BLUE, ORANGE, GRAY = "#0072B2", "#D55E00", "#999999"
COLORS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def has_matplotlib() -> bool:
  """Returns whether figures can be drawn."""
  return importlib.util.find_spec("matplotlib") is not None


def new_figure(width: float, height: float) -> Any:
  """Returns a matplotlib figure, without pyplot's global state or a window.

  Args:
    width: in inches.
    height: in inches.
  """
  from matplotlib.figure import Figure

  return Figure(figsize=(width, height), dpi=120, layout="constrained")


def finish_axes(axes: Any, grid: str = "both") -> None:
  """Add a light grid and remove the top and right spines.

  Args:
    axes: matplotlib axes.
    grid: "both", "x" or "y".
  """
  axes.grid(axis=grid, alpha=0.3)
  axes.spines[["top", "right"]].set_visible(False)


def log_error_scale(axes: Any, floor: float) -> None:
  """Scale the y axis by the log of the error: 98 to 99 % is like 80 to 90 %.

  Args:
    axes: matplotlib axes with accuracies in %.
    floor: smallest error in %, for an accuracy of 100.
  """
  import numpy as np

  def forward(accuracy: Any) -> Any:
    return -np.log10(np.maximum(100.0 - np.asarray(accuracy), floor))

  def inverse(height: Any) -> Any:
    return 100.0 - 10.0 ** -np.asarray(height)

  axes.set_yscale("function", functions=(forward, inverse))


def accuracy_ticks(axes: Any, ticks: Sequence[float | int]) -> None:
  """Set those of the accuracy ticks that lie within the y limits.

  Args:
    axes: matplotlib axes with accuracies in %.
    ticks: candidates, in %.
  """
  low, high = axes.get_ylim()
  visible = [tick for tick in ticks if low <= tick <= high]
  if len(visible) > 1:
    axes.set_yticks(visible, [str(tick) for tick in visible])


def plain_log_ticks(axes: Any) -> None:
  """Label a logarithmic y axis with plain numbers.

  Args:
    axes: matplotlib axes.
  """
  from matplotlib import ticker

  for locator in (
    axes.yaxis.set_major_formatter,
    axes.yaxis.set_minor_formatter,
  ):
    locator(ticker.FormatStrFormatter("%.3g"))
  axes.yaxis.set_minor_locator(ticker.LogLocator(subs=(1.5, 2, 3, 5, 7)))
