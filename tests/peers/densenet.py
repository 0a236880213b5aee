"""torchvision's and pytorchcv's DenseNet; pytorchcv's CIFAR networks without bottleneck compress and are others."""

from functools import partial

from pytorchcv.model_provider import get_model as cv
from torchvision.models import get_model as tv

PEERS = {
    **{f"densenet{depth}": partial(tv, f"densenet{depth}", weights=None) for depth in (121, 161, 169, 201)},
    "densenet_bc_100_12_cifar": partial(cv, "densenet100_k12_bc_cifar10"),
    "densenet_bc_190_40_cifar": partial(cv, "densenet190_k40_bc_cifar10"),
    "densenet_bc_250_24_cifar": partial(cv, "densenet250_k24_bc_cifar10"),
}
FIXED = {name for name in PEERS if name.endswith("_cifar")}
