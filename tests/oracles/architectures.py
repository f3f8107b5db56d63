"""The sparse layers of the papers' networks, and their multiply-adds.

Each function returns name -> (kernel shape HWIO or (in, out), positions), where
positions is the number of output pixels; multiply-adds are size x positions.
"""

import math


def size(layers):
  return sum(math.prod(shape) for shape, _ in layers.values())


def shapes(layers):
  return {name: shape for name, (shape, _) in layers.items()}


def cost_ratio(layers, sparsities):
  """Multiply-adds of the sparse network as a fraction of the dense one."""
  costs = {n: math.prod(shape) * px for n, (shape, px) in layers.items()}
  sparse = sum((1 - sparsities[n]) * cost for n, cost in costs.items())
  return sparse / sum(costs.values())


def resnet50(*, stem, pool, image, classes):
  """Bottlenecks [3, 4, 6, 3] with strided 3x3 convolutions."""
  side = image // (2 if stem == 7 else 1)
  layers = {"stem": ((stem, stem, 3, 64), side**2)}
  side //= 2 if pool else 1
  channels = 64
  for stage, blocks in enumerate([3, 4, 6, 3]):
    width = 64 * 2**stage
    for block in range(blocks):
      name = f"layer{stage + 1}.{block}"
      before = side**2
      side //= 2 if block == 0 and stage > 0 else 1
      layers[f"{name}.conv1"] = ((1, 1, channels, width), before)
      layers[f"{name}.conv2"] = ((3, 3, width, width), side**2)
      layers[f"{name}.conv3"] = ((1, 1, width, 4 * width), side**2)
      if block == 0:
        layers[f"{name}.down"] = ((1, 1, channels, 4 * width), side**2)
      channels = 4 * width
  layers["classifier"] = ((channels, classes), 1)
  return layers


def resnet50_imagenet():
  return resnet50(stem=7, pool=True, image=224, classes=1000)


def resnet50_cifar(classes):
  return resnet50(stem=3, pool=False, image=32, classes=classes)


def resnet20():
  """Three stages of three basic blocks, projections where the width changes."""
  layers = {"stem": ((3, 3, 3, 16), 32**2)}
  channels, side = 16, 32
  for stage, width in enumerate([16, 32, 64]):
    for block in range(3):
      name = f"blocks.{3 * stage + block}"
      side //= 2 if block == 0 and stage > 0 else 1
      layers[f"{name}.conv1"] = ((3, 3, channels, width), side**2)
      layers[f"{name}.conv2"] = ((3, 3, width, width), side**2)
      if channels != width:
        layers[f"{name}.shortcut"] = ((1, 1, channels, width), side**2)
      channels = width
  layers["fc"] = ((64, 10), 1)
  return layers


def vgg19(classes):
  """Sixteen 3x3 convolutions, four poolings, one linear layer."""
  layers, channels = {}, 3
  plan = [(64, 2, 32), (128, 2, 16), (256, 4, 8), (512, 4, 4), (512, 4, 2)]
  for width, convs, side in plan:
    for _ in range(convs):
      layers[f"conv{len(layers)}"] = ((3, 3, channels, width), side**2)
      channels = width
  layers["classifier"] = ((512, classes), 1)
  return layers


def mobilenet_v1():
  """Thirteen depthwise separable blocks; depthwise kernels are sparse, too."""
  layers = {"stem": ((3, 3, 3, 32), 112**2)}
  channels, side = 32, 112
  widths = [64, 128, 128, 256, 256] + [512] * 6 + [1024, 1024]
  strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]
  for block, (width, stride) in enumerate(zip(widths, strides, strict=True)):
    side //= stride
    layers[f"{block}.depthwise"] = ((3, 3, 1, channels), side**2)
    layers[f"{block}.pointwise"] = ((1, 1, channels, width), side**2)
    channels = width
  layers["fc"] = ((1, 1, channels, 1000), 1)
  return layers


def lenet_300_100():
  return {
    "l1": ((784, 300), 1),
    "l2": ((300, 100), 1),
    "l3": ((100, 10), 1),
  }


def toy():
  """Output channels last: a(4, 2, 3, 3) of PyTorch is (3, 3, 2, 4) here."""
  return {
    "a": ((3, 3, 2, 4), 1),
    "b": ((3, 3, 4, 8), 1),
    "c": ((8, 10), 1),
  }
