"""GraNet, Table 1: the dense networks.

python -m sparsejax.study.reproduce granet_1 --list
"""

from sparsejax.study import papers

TABLE = papers.Table(
  title="Test accuracy in % of dense networks",
  reference="Liu et al. (2021), GraNet, Table 1",
  columns=("accuracy",),
  rows=(
    *papers.line(
      "dense",
      "cifar:dense",
      papers.across(
        (
          "resnet20,cifar10",
          "vgg19,cifar10",
          "vgg19,cifar100",
          "resnet50_cifar,cifar10",
          "resnet50_cifar,cifar100",
        )
      ),
      "92.41±.04 93.85±.05 73.43±.08 94.75±.01 78.23±.18",
    ),
    *papers.line(
      "dense",
      "imagenet:dense",
      papers.across(("resnet50",)),
      "76.80±.09",
      note="batches of 128, 64 for each of two GPUs, and weight decay 1e-4, as"
      " in Table 7 and the code; Table 1 prints 4e-4. The accuracy is that of"
      " RigL's paper",
    ),
  ),
)
