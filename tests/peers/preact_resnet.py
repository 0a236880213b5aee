"""timm's resnetv2, and pytorchcv's PreResNet where two details are put as the paper has them.

pytorchcv strides in the 3x3 on CIFAR, where the authors' release strides in the first 1x1; and on ImageNet it repeats
the norm that the stem has already applied.
"""

from functools import partial
from typing import Any

from pytorchcv.model_provider import get_model
from timm import create_model
from torch import nn


def preresnet(depth: int) -> nn.Module:
    model: Any = get_model(f"preresnet{depth}")
    model.features.stage1.unit1.body.conv1.bn = nn.Identity()
    return model


def strides_in_1x1(name: str) -> nn.Module:
    model: Any = get_model(name)
    for stage in (model.features.stage2, model.features.stage3):
        body = stage.unit1.body
        body.conv1.conv.stride, body.conv2.conv.stride = (2, 2), (1, 1)
    for conv in (m for name, m in model.named_modules() if name.endswith("body.conv3.conv")):
        nn.init.normal_(conv.weight, std=0.02)  # random branches in full would overflow within 333 units
    return model


PEERS = {
    **{f"preact_resnet{depth}": partial(preresnet, depth) for depth in (18, 34, 50, 101, 152, 200)},
    **{f"preact_resnet{depth}.timm": partial(create_model, f"resnetv2_{depth}") for depth in (18, 34, 50, 101, 152)},
    "preact_resnet164_cifar": partial(strides_in_1x1, "preresnet164bn_cifar10"),
    "preact_resnet1001_cifar": partial(strides_in_1x1, "preresnet1001_cifar10"),
    "resnet164_cifar": partial(strides_in_1x1, "resnet164bn_cifar10"),
    "resnet1001_cifar": partial(strides_in_1x1, "resnet1001_cifar10"),
}
FIXED = {name for name in PEERS if not name.endswith(".timm")}
