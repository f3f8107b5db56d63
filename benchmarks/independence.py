"""The independence paradox: losses of single weights do not add up.

    python benchmarks/independence.py

Trains the dense perceptron of the digits, then removes a growing share of its
weights at once, those that a criterion calls worth least, and compares the
change of the training loss with the sum of the changes that single weights
predict (OptG, sections 3.1 and 3.2). Writes independence.{json,png}. Needs
matplotlib: `pip install -e '.[train,plots]'`.
"""

import functools
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import outputs

from sparsejax.analysis import loss_change
from sparsejax.components import leaves
from sparsejax.data import Split
from sparsejax.data.digits import digits
from sparsejax.models.mlp import mlp
from sparsejax.plots import style

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
CRITERIA = {
  "magnitude": "smallest |w|",
  "first_order": "smallest |g w|",
}
STEPS, SAMPLE = 2_000, 512


def trained(steps: int) -> tuple[Any, Callable[[Any], jax.Array]]:
  """Returns a trained dense network, and its loss on the training images."""
  data = digits()
  assert isinstance(data.train, Split)
  model = mlp(data.provided["classes"])
  images, labels = data.task.draw(None, data.train)
  tx = optax.sgd(0.05, momentum=0.9)

  def loss_fn(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    logits: Any = model.apply({"params": params}, x, train=False)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

  @jax.jit
  def step(carry: Any, key: jax.Array) -> tuple[Any, None]:
    params, state = carry
    index = jax.random.choice(key, len(labels), (64,), replace=False)
    grads = jax.grad(loss_fn)(params, images[index], labels[index])
    updates, state = tx.update(grads, state)
    return (optax.apply_updates(params, updates), state), None

  params = model.init(jax.random.key(0), images[:1], train=False)["params"]
  keys = jax.random.split(jax.random.key(1), steps)
  (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), keys)
  return params, functools.partial(loss_fn, x=images, y=labels)


def measure(
  params: Any, loss_fn: Callable[[Any], jax.Array], sample: int
) -> list[dict[str, Any]]:
  """Returns one record per criterion and share of removed weights."""
  layout = leaves.find_layout(params, None, None)
  gradient = loss_change.first_order(params, jax.grad(loss_fn)(params))
  scores = {
    "magnitude": layout.take(jax.tree.map(jnp.abs, params)),
    "first_order": layout.take(jax.tree.map(jnp.abs, gradient)),
  }
  found = []
  for criterion in CRITERIA:
    order = np.argsort(_flat(scores[criterion]), kind="stable")
    for share in SHARES:
      flags = np.zeros(order.size, bool)
      flags[order[: int(share * order.size)]] = True
      removed = layout.masked_tree(_split(flags, layout.sizes, layout.leaves))
      change = loss_change.of_removal(
        loss_fn, params, removed, sample=sample, key=jax.random.key(2)
      )
      record = {"criterion": criterion, "share": share, **change._asdict()}
      found.append(record | {"interaction": change.interaction})
      print(
        f"{criterion} {share:.0%}: loss {change.actual:+.4f}, single weights"
        f" {change.alone:+.4f}, first order {change.first_order:+.4f}"
      )
  return found


def _flat(arrays: Sequence[jax.Array]) -> np.ndarray:
  return np.concatenate([np.asarray(x).ravel() for x in arrays])


def _split(
  flags: np.ndarray, sizes: Sequence[int], sparse: Sequence[Any]
) -> list[np.ndarray]:
  parts = np.split(flags, np.cumsum(sizes)[:-1])
  pairs = zip(parts, sparse, strict=True)
  return [part.reshape(leaf.shape) for part, leaf in pairs]


def plot(records: Sequence[dict[str, Any]], path: pathlib.Path) -> None:
  """Plot the changes over the share of removed weights, by criterion."""
  figure = style.new_figure(8.4, 3.6)
  lines = {
    "actual": ("removed together", style.BLUE, "-"),
    "alone": ("sum of single removals", style.ORANGE, "--"),
    "first_order": ("sum of -g w", style.GRAY, ":"),
  }
  panels = figure.subplots(1, len(CRITERIA), sharey=True)
  for axes, (criterion, title) in zip(panels, CRITERIA.items(), strict=True):
    rows = [row for row in records if row["criterion"] == criterion]
    shares = [100 * row["share"] for row in rows]
    for key, (label, color, line) in lines.items():
      values = [row[key] for row in rows]
      axes.plot(
        shares, values, line, color=color, marker="o", ms=3, label=label
      )
    axes.set_yscale("symlog", linthresh=1e-3)
    axes.set_xlabel("removed weights (%)")
    axes.set_title(title, fontsize=10)
    style.finish_axes(axes)
  panels[0].set_ylabel("change of the training loss")
  panels[0].legend(loc="upper left", frameon=False, fontsize=9)
  figure.savefig(path)


def main(argv: Sequence[str] | None = None) -> None:
  """Measure, then write the numbers and the figure."""
  options = outputs.options(__doc__, argv)
  steps, sample = (20, 4) if options.small else (STEPS, SAMPLE)
  records = measure(*trained(steps), sample)
  text = json.dumps(records, indent=1) + "\n"
  (options.folder / "independence.json").write_text(text, encoding="utf-8")
  plot(records, options.folder / "independence.png")
  print(f"Results: {options.folder}")


if __name__ == "__main__":
  main()
