"""The tables hold the papers' figures: all of them, and no others.

`transcript.md` has the tables as printed, misprints included.
"""

import itertools
import pathlib
import re

import pytest
from helpers import tables

from sparsejax.study.papers import Figure

TEXT = pathlib.Path(__file__).with_name("transcript.md").read_text()
PAPERS = {"GraNet": "granet", "OptG": "optg", "Scholte": "scholte"}
BLOCKS = {
  f"{PAPERS[paper]}_{number}": block.splitlines()
  for paper, number, block in re.findall(
    r"^## (\w+) Table (\d+).*\n```\n((?:.*\n)*?)```", TEXT, re.MULTILINE
  )
}
COSTS = ("accuracy", "training", "inference")
MACS = ("million_parameters", "million_macs", "accuracy")
DATA = ("cifar10", "cifar100")
MODELS = {
  "ResNet-20": "resnet20",
  "VGG-19": "vgg19",
  "VGGNet-19": "vgg19",
  "ResNet-50": "resnet50_cifar",
}
# Names of lines that are not the method's name in small letters.
LINES = {
  "deep-r": "deep_r",
  "static (erk)": "static",
  "small-dense": "small_dense",
  "rigl (erk)": "rigl",
  "snfs (erk)": "snfs",
  "granet (si = 0)": "granet-0",
  "granet (si = 0.5)": "granet-0.5",
  "+ lottery ticket hypothesis": "lth",
  "+ learning rate rewinding": "lrr",
  "granet2× (si = 0)": "granet-0-2x",
  "small-dense5×": "small_dense-5x",
  "rigl-itop2×": "rigl_itop-2x",
  "rigl5×": "rigl-5x",
  "granet2.5× (si = 0.5)": "granet-0.5-2.5x",
  "dynset 2": "dynset2",
  "dynset 3": "dynset3",
}
# Lines whose names differ in single tables.
IN_TABLE = {
  "granet_3": {"gmp": "gmp-kept"},
  "granet_8": {"gmp": "gmp-kept", "gmp (our implementation)": "gmp"},
  "granet_9": {"gmp": "gmp-uniform", "granet-0": "granet-0-uniform"},
  "optg_1": {"granet": "granet-0"},
  "optg_5": {name: f"optg-{name}" for name in ("uniform", "gs", "erk")},
}


def line_name(table, label):
  """The name of a line, from its printed label with references."""
  label = re.sub(r" ?\[\d+\]| \(ours\)", "", label).strip().lower()
  name = LINES.get(label, label)
  return IN_TABLE.get(table, {}).get(name, name)


def figure(text):
  """A printed number such as 93.85±0.05, 0.23×, 1.23G or 0,6682."""
  value, _, deviation = text.replace(",", ".").partition("±")
  number = float(value.rstrip("×xMG"))
  number = round(1000 * number, 6) if value.endswith("G") else number
  return Figure(number, float(deviation) if deviation else None)


def figures(texts, columns):
  pairs = zip(columns, texts, strict=True)
  return {
    column: figure(text) for column, text in pairs if text not in ("-", "n/a")
  }


def numbers(line, count):
  """The label of a line, and its last items if they are numbers."""
  # Without bars, and without what the ratios are of.
  line = re.sub(r" \|| \(\d\.\de\d+\)", "", line)
  item = r"(?:-|n/a|\d[\d.]*(?:±[\d.]+)?[×xMG]?)"
  found = re.fullmatch(rf"(.*?)((?: {item}){{{count}}})", line)
  return found and (found[1], found[2].split())


def dense_networks(table):
  model = ""
  for line in BLOCKS[table]:
    named = re.match("|".join(MODELS), line)
    model = MODELS[named[0]] if named else model
    found = re.search(r"(CIFAR-100?|ImageNet) .* (\S+)$", line)
    if found and "ImageNet" in line:
      yield "dense/resnet50", {"accuracy": figure(found[2])}
    elif found:
      data = found[1].replace("CIFAR-", "cifar")
      yield f"dense/{model}/{data}", {"accuracy": figure(found[2])}


def accuracies(table, sparsities):
  """Lines of CIFAR-10 | CIFAR-100, under the dense line of their network."""
  model = ""
  for line in BLOCKS[table]:
    found = numbers(line, 2 * len(sparsities))
    if not found:
      continue
    label, items = found
    named = MODELS.get(label.removesuffix(" (Dense)"))
    model = named or model
    name = "dense" if named else line_name(table, label)
    own = "vgg19_optg" if name == "optg" and model == "vgg19" else model
    cells = itertools.product(DATA, sparsities)
    for (data, sparsity), text in zip(cells, items, strict=True):
      if text != "-":
        end = "" if named else f"/{sparsity}"
        yield f"{name}/{own}/{data}{end}", {"accuracy": figure(text)}


def costs_by_sparsity(table):
  """Lines of accuracy and FLOP ratios at 80 and at 90 %."""
  for line in BLOCKS[table]:
    found = numbers(line, 6) or numbers(line, 3)
    if not found:
      continue
    label, items = found
    name = line_name(table, label)
    # The dense network is the same at both.
    cells = ("",) if name == "dense" else ("/0.8", "/0.9")
    for cell, texts in zip(cells, (items[:3], items[3:]), strict=False):
      if published := figures(texts, COSTS):
        yield f"{name}/resnet50{cell}", published


def initial_sparsities(table):
  for line in BLOCKS[table]:
    found = numbers(line, 5)
    if not found:
      continue
    label, (first, final, *texts) = found
    if label == "RigL":
      name = f"rigl/resnet50/{final}"
    elif table == "granet_4":
      name = f"granet/resnet50/{final}/{first}"
    else:
      name = f"granet-{first}/resnet50/{final}"
    yield name, figures(texts, COSTS)


def layers(table):
  heads = ["parameters", "flops", "granet-0", "granet-0.5", "str", "uniform"]
  heads += ["erk", "snfs", "vd", "gs"]
  names = tables.table(table).columns
  found = []
  for line in BLOCKS[table]:
    if re.match(r"Overall|Backbone|Layer \d+ - ", line):
      found.append(line.split()[-len(heads) :])
  for head, texts in zip(heads, zip(*found, strict=True), strict=True):
    yield head, figures(texts, names)


def macs(table):
  """Lines of sparsity, parameters, FLOPs and accuracy."""
  for line in BLOCKS[table][1:]:
    label, (sparsity, *texts) = numbers(line, 4)
    name = line_name(table, label)
    model = "mobilenet_v1" if table == "optg_3" else "resnet50"
    if name == "granet":
      name = "granet-0" if sparsity == "90.00" else "granet-0.5"
    row = f"{name}/{model}/{float(sparsity) / 100:g}"
    if float(sparsity) == 0:
      row = f"dense/{model}"
    yield row, figures(texts, MACS)


def connections(table):
  for line in BLOCKS[table][1:]:
    label, _, *texts = (item.strip() for item in line.split("|"))
    accuracy, loss, count, alpha, beta = map(figure, texts)
    yield (
      f"{line_name(table, label)}/cifar10",
      {
        "accuracy": Figure(round(100 * accuracy.value, 6)),
        "loss": loss,
        "connections": count,
        "alpha": Figure(round(1e6 * alpha.value, 6)),
        "beta": beta,
      },
    )


READERS = {
  "granet_1": dense_networks,
  "granet_3": costs_by_sparsity,
  "granet_4": initial_sparsities,
  "granet_5": initial_sparsities,
  "granet_8": costs_by_sparsity,
  "granet_10": layers,
  "optg_1": lambda table: accuracies(table, ("0.9", "0.95")),
  **dict.fromkeys(("optg_2", "optg_3", "optg_4", "optg_5"), macs),
  "scholte_2": connections,
}
READERS |= dict.fromkeys(
  ("granet_2", "granet_6", "granet_9"),
  lambda table: accuracies(table, ("0.9", "0.95", "0.98")),
)


# Figures print no numbers, and a table of ours has none before it is trained.
PRINTED = [
  name
  for name in tables.NAMES
  if tables.table(name).plot is None
  and any(row.published for row in tables.table(name).rows)
]


def test_every_table_is_transcribed():
  assert BLOCKS.keys() == set(PRINTED) == READERS.keys()


@pytest.mark.parametrize("name", PRINTED)
def test_a_table_holds_the_figures_of_the_paper(name):
  printed = list(READERS[name](name))
  rows = tables.table(name).rows
  assert len(printed) == len(rows)
  assert {row.name: row.published for row in rows} == dict(printed)
