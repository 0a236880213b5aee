"""torchvision's ResNeXt, by its own names where it has them; timm's; and pytorchcv's for CIFAR."""

from functools import partial

from pytorchcv.models.resnext_cifar import get_resnext_cifar
from timm import create_model
from torchvision.models import get_model
from torchvision.models.resnet import Bottleneck, ResNet

BLOCKS = {50: [3, 4, 6, 3], 101: [3, 4, 23, 3]}
TEMPLATES = {50: [(1, 64), (2, 40), (4, 24), (8, 14)], 101: [(1, 64), (2, 40), (4, 24), (8, 14), (1, 100), (2, 64)]}

PEERS = {
    **{
        f"resnext{depth}_{c}x{d}d": partial(ResNet, Bottleneck, BLOCKS[depth], groups=c, width_per_group=d)
        for depth, templates in TEMPLATES.items()
        for c, d in templates
    },
    "resnext50_32x4d": partial(get_model, "resnext50_32x4d", weights=None),
    "resnext101_32x4d": partial(create_model, "resnext101_32x4d"),
    "resnext101_64x4d": partial(get_model, "resnext101_64x4d", weights=None),
    "resnext101_32x8d.tv": partial(get_model, "resnext101_32x8d", weights=None),
    **{
        f"resnext29_{c}x64d_cifar": partial(
            get_resnext_cifar, num_classes=10, blocks=29, cardinality=c, bottleneck_width=64
        )
        for c in (1, 8, 16)
    },
}
FIXED = [f"resnext29_{c}x64d_cifar" for c in (1, 8, 16)]
