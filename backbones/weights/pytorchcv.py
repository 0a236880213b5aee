"""pytorchcv's networks: what they are here, and its names of our layers; those that branch: `pytorchcv_inception`.

Not listed are its second names of a network: for CIFAR-100 and SVHN, where the classifier is another, and `c` for the
other weights of `efficientnet_b0b` to `b7b`. A name with a dot is a constructor's: "module.function" or "module.Class".
"""

from collections.abc import Iterator, Sequence
from importlib import import_module
from itertools import accumulate
from typing import Any

from torch import nn

from backbones.backbone import Backbone
from backbones.weights import pytorchcv_inception as inception
from backbones.weights.convert import Network, Peer
from backbones.weights.layers import blocks, convs, holds, normed

MOBILE = {"padding": "symmetric", "norm_eps": 1e-5}  # and ReLU, where `mobilenet_v1.timm` has ReLU6
WIDTHS = {"_w1": "", "_w3d4": "_x0_75", "_wd2": "_x0_5", "_wd4": "_x0_25"}
TEMPLATES = {50: ((1, 64), (2, 40), (4, 24), (8, 14)), 101: ((1, 64), (2, 40), (4, 24), (8, 14), (1, 100), (2, 64))}
WRN_CIFAR = ((16, 4), (16, 8), (22, 8), (22, 10), (28, 12), (40, 1), (40, 2), (40, 4), (40, 10), (52, 1))
WRN = {"18_x1_5": (96, 18), "18_x2": (128, 18), "18_x3": (192, 18), "34_x1_5": (96, 34), "34_x2": (128, 34)}
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


def wide(width: int, depth: int) -> list[list[int]]:
    """Channels of every unit: `width` in the first stage, twice as many in each that follows."""
    return [[width << stage] * units for stage, units in enumerate(BLOCKS[depth])]


def dense(channels: int, growth: int, layers: Sequence[int]) -> list[list[int]]:
    """Channels after every unit, each stage from the second on beginning with half of those before it."""
    stages: list[list[int]] = []
    for units in layers:
        stages.append(list(accumulate([growth] * units, initial=channels))[1:])
        channels = stages[-1][-1] // 2
    return stages


def resnext(ours: str, depth: int, cardinality: int, width: int, module: str = "resnext", **more: int) -> Network:
    kwargs = {"blocks": depth, "cardinality": cardinality, "bottleneck_width": width, **more}
    return Network(f"{module}.get_{module}", ours, kwargs=kwargs)


def wide_on_cifar(depth: int, k: int) -> Network:
    kwargs = {"num_classes": 10, "blocks": depth, "width_factor": k}
    return Network("wrn_cifar.get_wrn_cifar", f"wrn_{depth}_{k}", kwargs=kwargs)


B = {"shortcut": "B"}
SMALL = {"num_classes": 10, "bottleneck": False}
BASIC = {"init_block_channels": 64, "bottleneck": False, "conv1_stride": True}
DENSENET_264 = {"channels": dense(64, 32, (6, 12, 64, 48)), "init_block_channels": 64}
DENSENET_C_40 = {"channels": dense(16, 12, (12, 12, 12)), "init_block_channels": 16, "bottleneck": False}
SHALLOW = {"channels": [[32], [64], [128] * 2, [256] * 2, [512], [1024] * 2], "first_stage_stride": False}

NETWORKS = (
    Network("alexnetb", "alexnet.tv"),  # at 223 to 226 pixels: elsewhere its poolings overhang the far edge
    *(Network(f"vgg{depth}", f"vgg{depth}") for depth in (11, 13, 16, 19)),
    *(Network(f"bn_vgg{depth}b", f"vgg{depth}_bn") for depth in (11, 13, 16, 19)),
    *(Network(f"resnet{depth}", f"resnet{depth}.tv") for depth in (18, 34)),
    *(Network(f"resnet{depth}", f"resnet{depth}") for depth in (50, 101, 152)),
    *(Network(f"resnet{depth}b", f"resnet{depth}.tv") for depth in (50, 101, 152)),
    *(Network(f"resnet{depth}_cifar10", f"resnet{depth}_cifar", B) for depth in (20, 56, 110, 1202)),
    *(Network(f"resnext{size}", f"resnext{size}") for size in ("50_32x4d", "101_32x4d", "101_64x4d")),
    Network("resnext29_16x64d_cifar10", "resnext29_16x64d_cifar"),
    *(Network(f"seresnet{depth}", f"se_resnet{depth}", {"caffe_pool": False}) for depth in (50, 101, 152)),
    *(Network(f"seresnet{depth}b", f"se_resnet{depth}.timm") for depth in (50, 101, 152)),
    *(Network(f"seresnext{depth}_32x4d", f"se_resnext{depth}_32x4d.timm") for depth in (50, 101)),
    Network("senet154", "senet154.timm"),
    *(Network(f"wrn{depth}_{width}_cifar10", f"wrn_{depth}_{width}") for depth, width in ((16, 10), (28, 10), (40, 8))),
    *(Network(f"densenet{depth}", f"densenet{depth}") for depth in (121, 161, 169, 201)),
    *(
        Network(f"densenet{depth}_k{k}_bc_cifar10", f"densenet_bc_{depth}_{k}_cifar")
        for depth, k in ((100, 12), (190, 40), (250, 24))
    ),
    Network("squeezenet_v1_0", "squeezenet1_0"),
    Network("squeezenet_v1_1", "squeezenet1_1"),
    Network("squeezeresnet_v1_0", "squeezenet1_0_simple_bypass"),
    *(Network(f"mobilenet{width}", f"mobilenet_v1{x}", MOBILE) for width, x in WIDTHS.items()),
    *(Network(f"efficientnet_b{size}", f"efficientnet_b{size}.tv") for size in range(5)),
    *(Network(f"efficientnet_b{size}", f"efficientnet_b{size}.tv", {"bn_eps": 1e-5}) for size in range(5, 8)),
    *(Network(f"efficientnet_b{size}b", f"efficientnet_b{size}") for size in range(8)),  # at square images
    *inception.NETWORKS,
    *(Network("resnet_cifar.get_resnet_cifar", f"resnet{d}_cifar", B, {**SMALL, "blocks": d}) for d in (32, 44)),
    *(resnext(f"resnext{depth}_{c}x{d}d", depth, c, d) for depth in (50, 101) for c, d in TEMPLATES[depth]),
    resnext("resnext101_32x8d.tv", 101, 32, 8),
    resnext("wide_resnet50_2", 50, 1, 128),
    resnext("wide_resnet101_2.tv", 101, 1, 128),
    *(resnext(f"resnext29_{c}x64d_cifar", 29, c, 64, "resnext_cifar", num_classes=10) for c in (1, 8)),
    *(wide_on_cifar(depth, k) for depth, k in WRN_CIFAR),
    *(Network("resnet.ResNet", f"wrn_{x}", kwargs={**BASIC, "channels": wide(*first)}) for x, first in WRN.items()),
    Network("densenet.DenseNet", "densenet264", kwargs=DENSENET_264),
    Network("densenet_cifar.CIFARDenseNet", "densenet_c_40_12_cifar", kwargs=DENSENET_C_40),
    Network("mobilenet.MobileNet", "mobilenet_v1_shallow", MOBILE, SHALLOW),
)

ALEXNET = ("stage1.unit1", "stage2.unit1", "stage3.unit1", "stage3.unit2", "stage3.unit3")
FULLY_CONNECTED = ("output.fc1.fc", "output.fc2.fc", "output.fc3")


def units(model: Backbone) -> Iterator[tuple[str, Any]]:
    """Our blocks under the peer's names: each of its stages counts its units."""
    for stage, index, block in blocks(model):
        yield f"features.stage{stage + 1}.unit{index + 1}", block


def alexnet(model: Backbone) -> Iterator[str]:
    yield from (f"features.{unit}.conv" for unit in ALEXNET)
    yield from FULLY_CONNECTED


def vgg(model: Backbone) -> Iterator[str]:
    for stage, part in enumerate(model.stages, 1):
        unit = 0
        for layer in filter(holds, part.children()):
            unit += isinstance(layer, nn.Conv2d)
            yield f"features.stage{stage}.unit{unit}.{'conv' if isinstance(layer, nn.Conv2d) else 'bn'}"
    yield from FULLY_CONNECTED


def resnet(model: Backbone) -> Iterator[str]:
    yield from normed("features.init_block" + (".conv" if convs(model.stem)[0].kernel_size == (7, 7) else ""))
    yield from residual(model)
    yield "output"


def senet(model: Backbone) -> Iterator[str]:
    """SENet-154 begins with three convolutions; the others are ResNet and ResNeXt but for their gates."""
    if len(convs(model.stem)) == 1:
        yield from resnet(model)
        return
    yield from normed(*(f"features.init_block.conv{i}" for i in (1, 2, 3)))
    yield from residual(model)
    yield "output.fc"


def residual(model: Backbone) -> Iterator[str]:
    """Its blocks, where the convolutions of a gate are inside."""
    for at, block in units(model):
        own = [layer for layer in block.branch if isinstance(layer, nn.Conv2d)]
        yield from normed(*(f"{at}.body.conv{i}" for i in range(1, len(own) + 1)))
        if len(convs(block.branch)) > len(own):
            yield from (f"{at}.se.conv1", f"{at}.se.conv2")
        if holds(block.shortcut):
            yield from normed(f"{at}.identity_conv")


def wide_resnet(model: Backbone) -> Iterator[str]:
    """Pre-activation units on CIFAR, ResNet's else."""
    if not isinstance(model.stem, nn.Conv2d):
        yield from resnet(model)
        return
    yield "features.init_block"
    for at, block in units(model):
        if isinstance(block, nn.BatchNorm2d):
            yield "features.post_activ.bn"
            continue
        for i in (1, 2):
            yield from (f"{at}.body.conv{i}.bn", f"{at}.body.conv{i}.conv")
        if holds(block.shortcut):
            yield f"{at}.identity_conv"
    yield "output"


def densenet(model: Backbone) -> Iterator[str]:
    yield from ["features.init_block"] if isinstance(model.stem, nn.Conv2d) else normed("features.init_block")
    for stage, _, block in blocks(model):
        at = f"features.stage{stage + 1}"
        if isinstance(block, nn.BatchNorm2d):
            yield "features.post_activ.bn"
        elif len(convs(block)) == 1:
            yield from (f"{at}.trans{stage + 1}.conv.bn", f"{at}.trans{stage + 1}.conv.conv")
        else:
            for unit, layer in enumerate(block.children(), 1):
                names = ("conv1", "conv2") if len(convs(layer)) == 2 else ("conv",)
                for name in names:
                    yield from (f"{at}.unit{unit}.{name}.bn", f"{at}.unit{unit}.{name}.conv")
    yield "output"


def squeezenet(model: Backbone) -> Iterator[str]:
    yield "features.init_block.conv"
    for at, _ in units(model):
        yield from (f"{at}.{layer}.conv" for layer in ("squeeze", "expand1x1", "expand3x3"))
    yield "output.final_conv"


def mobilenet_v1(model: Backbone) -> Iterator[str]:
    yield from normed("features.init_block")
    for at, _ in units(model):
        yield from normed(f"{at}.dw_conv", f"{at}.pw_conv")
    yield "output"


def efficientnet(model: Backbone) -> Iterator[str]:
    yield from normed("features.init_block.conv")
    for at, block in units(model):
        if not hasattr(block, "branch"):
            yield from normed("features.final_block")
            continue
        *first, last = ("dw_conv", "pw_conv") if len(convs(block.branch)) == 4 else ("conv1", "conv2", "conv3")
        yield from normed(*(f"{at}.{layer}" for layer in first))
        yield from (f"{at}.se.conv1", f"{at}.se.conv2", f"{at}.{last}.conv", f"{at}.{last}.bn")
    yield "output.fc"


def _create(network: Network) -> nn.Module:
    """By its name, or by its constructor's."""
    module, dot, constructor = network.name.rpartition(".")
    if not dot:
        return import_module("pytorchcv.model_provider").get_model(network.name)
    return getattr(import_module(f"pytorchcv.models.{module}"), constructor)(**network.kwargs)


class PyTorchCV(Peer):
    def image_sizes(self, theirs: Any) -> Sequence[tuple[int, int]]:
        """Square: small ones where the last pooling is over the whole map, else those of its own size."""
        return ((97, 97), theirs.in_size)


PYTORCHCV = PyTorchCV(
    name="pytorchcv",
    networks=NETWORKS,
    layers={
        "alexnet": alexnet,
        "vgg": vgg,
        "resnet": resnet,
        "resnext": resnet,
        "senet": senet,
        "wide_resnet": wide_resnet,
        "densenet": densenet,
        "squeezenet": squeezenet,
        "mobilenet_v1": mobilenet_v1,
        "efficientnet": efficientnet,
        **inception.LAYERS,
    },
    create=_create,
)
