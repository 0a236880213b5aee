"""torchvision's networks: what they are here, and its names of our layers."""

import re
from collections.abc import Iterator

from torch import nn

from backbones.backbone import Backbone
from backbones.weights.convert import Network, Peer
from backbones.weights.layers import blocks, convs, holds, normed, positions, rows

WIDTHS = {"_x0_35": 0.35, "_x0_5": 0.5, "_x0_75": 0.75, "_x1_3": 1.3, "_x1_4": 1.4}
TEMPLATES = {50: ((1, 64), (2, 40), (4, 24), (8, 14)), 101: ((1, 64), (2, 40), (4, 24), (8, 14), (1, 100), (2, 64))}

NETWORKS = (
    Network("alexnet", "alexnet.tv"),
    *(Network(f"vgg{depth}{norm}", f"vgg{depth}{norm}") for depth in (11, 13, 16, 19) for norm in ("", "_bn")),
    Network("googlenet", "googlenet.tv"),
    Network("inception_v3", "inception_v3.tv"),
    *(Network(f"resnet{depth}", f"resnet{depth}.tv") for depth in (18, 34, 50, 101, 152)),
    Network("resnext50_32x4d", "resnext50_32x4d"),
    Network("resnext101_32x8d", "resnext101_32x8d.tv"),
    Network("resnext101_64x4d", "resnext101_64x4d"),
    Network("wide_resnet50_2", "wide_resnet50_2"),
    Network("wide_resnet101_2", "wide_resnet101_2.tv"),
    *(Network(f"densenet{depth}", f"densenet{depth}") for depth in (121, 161, 169, 201)),
    Network("squeezenet1_0", "squeezenet1_0"),
    Network("squeezenet1_1", "squeezenet1_1"),
    Network("mobilenet_v2", "mobilenet_v2.tv"),
    *(Network(f"efficientnet_b{size}", f"efficientnet_b{size}.tv") for size in range(8)),
    *(Network("mobilenet_v2", f"mobilenet_v2{x}.tv", kwargs={"width_mult": width}) for x, width in WIDTHS.items()),
    *(
        Network(f"resnet{depth}", f"resnext{depth}_{c}x{d}d", kwargs={"groups": c, "width_per_group": d})
        for depth, templates in TEMPLATES.items()
        for c, d in templates
    ),
    Network("resnet101", "resnext101_32x4d", kwargs={"groups": 32, "width_per_group": 4}),
    Network("DenseNet", "densenet264", kwargs={"block_config": (6, 12, 64, 48)}),
)

INCEPTION = ("branch1", "branch2.0", "branch2.1", "branch3.0", "branch3.1", "branch4.1")
DOUBLE = ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")
AT_17 = (
    *("branch1x1", "branch7x7_1", "branch7x7_2", "branch7x7_3"),
    *(f"branch7x7dbl_{i}" for i in range(1, 6)),
    "branch_pool",
)
AT_8 = (
    *("branch1x1", "branch3x3_1", "branch3x3_2a", "branch3x3_2b"),
    *("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3a", "branch3x3dbl_3b", "branch_pool"),
)
INCEPTION_V3 = {
    **{f"Mixed_5{m}": ("branch1x1", "branch5x5_1", "branch5x5_2", *DOUBLE, "branch_pool") for m in "bcd"},
    "Mixed_6a": ("branch3x3", *DOUBLE),
    **{f"Mixed_6{m}": AT_17 for m in "bcde"},
    "Mixed_7a": ("branch3x3_1", "branch3x3_2", *(f"branch7x7x3_{i}" for i in range(1, 5))),
    **{f"Mixed_7{m}": AT_8 for m in "bc"},
}
"""the layers of each module, in the order of its branches"""


def chain(model: Backbone) -> Iterator[str]:
    """AlexNet and VGG: one numbered row of layers, then three numbered matrices."""
    yield from (f"features.{i}" for i in positions(model.stages))
    neck = model.head.neck
    assert isinstance(neck, nn.Sequential)
    first = 1 if isinstance(neck[0], nn.Dropout) else 0
    yield from (f"classifier.{i}" for i in (first, first + 3, 6))


def googlenet(model: Backbone) -> Iterator[str]:
    yield from normed("conv1", "conv2", "conv3")
    for module in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"):
        yield from normed(*(f"inception{module}.{layer}" for layer in INCEPTION))
    yield "fc"
    for i in range(1, len(model.aux) + 1):
        yield from normed(f"aux{i}.conv")
        yield from (f"aux{i}.fc1", f"aux{i}.fc2")


def inception_v3(model: Backbone) -> Iterator[str]:
    yield from normed(*(f"Conv2d_{layer}" for layer in ("1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3")))
    for module, layers in INCEPTION_V3.items():
        yield from normed(*(f"{module}.{layer}" for layer in layers))
    yield "fc"
    if model.aux:
        yield from (*normed("AuxLogits.conv0", "AuxLogits.conv1"), "AuxLogits.fc")


def resnet(model: Backbone) -> Iterator[str]:
    yield from ("conv1", "bn1")
    for stage, index, block in blocks(model):
        at = f"layer{stage + 1}.{index}"
        for i in range(1, len(convs(block.branch)) + 1):
            yield from (f"{at}.conv{i}", f"{at}.bn{i}")
        if holds(block.shortcut):
            yield from (f"{at}.downsample.0", f"{at}.downsample.1")
    yield "fc"


def densenet(model: Backbone) -> Iterator[str]:
    yield from ("features.conv0", "features.norm0")
    for stage, part in enumerate(model.stages, 1):
        for module in (m for m in part.children() if holds(m)):
            if isinstance(module, nn.BatchNorm2d):
                yield "features.norm5"
            elif len(convs(module)) == 1:
                yield from (f"features.transition{stage - 1}.norm", f"features.transition{stage - 1}.conv")
            else:
                for layer in range(1, len(list(module.children())) + 1):
                    at = f"features.denseblock{stage}.denselayer{layer}"
                    yield from (f"{at}.norm1", f"{at}.conv1", f"{at}.norm2", f"{at}.conv2")
    yield "classifier"


def squeezenet(model: Backbone) -> Iterator[str]:
    """One numbered row: the stem's layers, then every module of the stages."""
    yield "features.0"
    before = len(list(model.stem.children()))
    for i in positions(model.stages):
        yield from (f"features.{before + i}.{layer}" for layer in ("squeeze", "expand1x1", "expand3x3"))
    yield "classifier.1"


def mobilenet_v2(model: Backbone) -> Iterator[str]:
    yield from ("features.0.0", "features.0.1")
    number = 0
    for number, (_, _, block) in enumerate(blocks(model), 1):
        branch = getattr(block, "branch", None)
        if branch is None:
            yield from (f"features.{number}.0", f"features.{number}.1")
            continue
        *first, last = range(len(convs(branch)))
        for i in first:
            yield from (f"features.{number}.conv.{i}.0", f"features.{number}.conv.{i}.1")
        yield from (f"features.{number}.conv.{last}", f"features.{number}.conv.{last + 1}")
    yield "classifier.1"


def efficientnet(model: Backbone) -> Iterator[str]:
    yield from ("features.0.0", "features.0.1")
    for row, index, block in rows(model):
        at, gate = f"features.{row + 1}.{index}.block", len(convs(block.branch)) - 3
        for i in range(gate):
            yield from (f"{at}.{i}.0", f"{at}.{i}.1")
        yield from (f"{at}.{gate}.fc1", f"{at}.{gate}.fc2", f"{at}.{gate + 1}.0", f"{at}.{gate + 1}.1")
    yield from ("features.8.0", "features.8.1", "classifier.1")


def _create(network: Network) -> nn.Module:
    from torchvision import models

    if network.name == "DenseNet":
        return models.DenseNet(**network.kwargs)
    own = {"init_weights": False} if network.name.startswith(("vgg", "googlenet", "inception")) else {}
    return models.get_model(network.name, weights=None, **own, **network.kwargs)


def _respell(name: str) -> str:
    """DenseNet's files of 2017 have `norm.1` where today's network has `norm1`."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", name)


HALF = (
    "torchvision's, as published, first turns images normalised for ImageNet into mean 0.5 and std 0.5 "
    "(transform_input); this network expects those"
)

TORCHVISION = Peer(
    name="torchvision",
    networks=NETWORKS,
    layers={
        "alexnet": chain,
        "vgg": chain,
        "googlenet": googlenet,
        "inception_v3": inception_v3,
        "resnet": resnet,
        "resnext": resnet,
        "wide_resnet": resnet,
        "densenet": densenet,
        "squeezenet": squeezenet,
        "mobilenet_v2": mobilenet_v2,
        "efficientnet": efficientnet,
    },
    create=_create,
    respell=_respell,
    hides={"googlenet": HALF, "inception_v3": HALF},
)
