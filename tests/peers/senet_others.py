"""Other libraries' networks, with pytorchcv's SE block put into each unit; pytorchcv's SE-PreResNet, put right.

That one repeats the norm and ReLU that its stem has already applied, ends without an activation, strides in the
3x3 and has projections for shortcuts in any depth.
"""

from typing import Any

from peers import inception_v2, preact_resnet, shufflenet_v1
from pytorchcv.model_provider import get_model
from pytorchcv.models.bninception import InceptionBlock, ReductionBlock
from pytorchcv.models.common.att import SEBlock
from pytorchcv.models.preresnet import PreResActivation, PreResUnit
from pytorchcv.models.sepreresnet import SEPreResUnit
from pytorchcv.models.shufflenet import ShuffleUnit
from pytorchcv.models.wrn_cifar import get_wrn_cifar
from timm import create_model
from timm.models.inception_resnet_v2 import Block8, Block17, Block35
from torch import nn

from backbones.models.inception_resnet import Scale
from backbones.models.resnet import PaddedIdentity


def units(model: nn.Module, *kinds: type[nn.Module]) -> list[Any]:
    return [m for m in model.modules() if isinstance(m, kinds)]


def bn_inception() -> nn.Module:
    model: Any = inception_v2.without_biases()
    for stage in model.features.children():
        for name, unit in list(stage.named_children()):
            if isinstance(unit, InceptionBlock | ReductionBlock):
                channels = stage_channels(unit)
                stage.register_module(name, nn.Sequential(unit, SEBlock(channels)))
    return model


def stage_channels(unit: nn.Module) -> int:
    """What the last convolution of each branch puts out; a branch that only pools puts out what comes in."""
    branches: Any = unit.branches
    convs = [[m for m in branch.modules() if isinstance(m, nn.Conv2d)] for branch in branches.children()]
    return sum(made[-1].out_channels if made else convs[0][0].in_channels for made in convs)


def inception_resnet() -> nn.Module:
    model = create_model("inception_resnet_v2", pretrained=False)
    for block in units(model, Block35, Block17, Block8):
        block.conv2d = nn.Sequential(block.conv2d, Scale(block.scale), SEBlock(block.conv2d.out_channels))
        block.scale = 1.0
    return model


def shufflenet() -> nn.Module:
    model = shufflenet_v1.peer(3, 1.0)
    for unit in units(model, ShuffleUnit):
        gate = SEBlock(unit.expand_bn3.num_features)
        gate.conv1.bias = gate.conv2.bias = None
        unit.expand_bn3 = nn.Sequential(unit.expand_bn3, gate)
    return model


def wide_resnet() -> nn.Module:
    model = get_wrn_cifar(num_classes=10, blocks=16, width_factor=8)
    for unit in units(model, PreResUnit):
        unit.body.conv2 = nn.Sequential(unit.body.conv2, SEBlock(unit.body.conv2.conv.out_channels))
    return model


def activated(model: Any) -> nn.Module:
    first = model.features.stage1.unit1.body.conv1
    first.bn = first.activ = nn.Identity()
    channels = model.output.in_features
    model.features.final_pool = nn.Sequential(PreResActivation(channels), model.features.final_pool)
    return model


def padded(model: Any) -> nn.Module:
    for unit in units(model, SEPreResUnit):
        if unit.resize_identity:
            made = unit.identity_conv
            unit.identity_conv = PaddedIdentity(made.out_channels - made.in_channels, made.stride[0])
    return model


PEERS = {
    "se_inception_v2": bn_inception,
    "se_inception_resnet_v2": inception_resnet,
    "se_shufflenet_v1_g3_x1_0": shufflenet,
    "se_resnet110_cifar": lambda: activated(padded(get_model("sepreresnet110_cifar10"))),
    "se_resnet164_cifar": lambda: activated(preact_resnet.strides_in_1x1("sepreresnet164bn_cifar10")),
    "se_wrn_16_8": wide_resnet,
}
FIXED = set(PEERS) - {"se_inception_resnet_v2"}
