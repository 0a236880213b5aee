"""pytorchcv's WRN on CIFAR, timm's ResNet with wider stages, torchvision's wide bottlenecks."""

from functools import partial

from pytorchcv.models.wrn_cifar import get_wrn_cifar
from timm.models.resnet import BasicBlock, ResNet
from torchvision.models import get_model

CIFAR = (
    *((40, 1), (40, 2), (40, 4), (40, 8), (40, 10), (28, 10), (28, 12)),
    *((22, 8), (22, 10), (16, 4), (16, 8), (16, 10), (52, 1)),
)
FIXED = {f"wrn_{depth}_{width}" for depth, width in CIFAR}


def widened(layers: tuple[int, ...], width: float) -> ResNet:
    return ResNet(BasicBlock, layers, channels=tuple(int(c * width) for c in (64, 128, 256, 512)))


PEERS = {
    **{f"wrn_{d}_{k}": partial(get_wrn_cifar, num_classes=10, blocks=d, width_factor=k) for d, k in CIFAR},
    "wrn_18_x1_5": partial(widened, (2, 2, 2, 2), 1.5),
    "wrn_18_x2": partial(widened, (2, 2, 2, 2), 2),
    "wrn_18_x3": partial(widened, (2, 2, 2, 2), 3),
    "wrn_34_x1_5": partial(widened, (3, 4, 6, 3), 1.5),
    "wrn_34_x2": partial(widened, (3, 4, 6, 3), 2),
    "wide_resnet50_2": partial(get_model, "wide_resnet50_2", weights=None),
    "wide_resnet101_2.tv": partial(get_model, "wide_resnet101_2", weights=None),
}
