"""AlexNet (Krizhevsky, Sutskever, Hinton, 2012): two towers of ReLU convolutions on two GPUs. Source: Fig. 2."""

from typing import NamedTuple, cast

from torch import Tensor, nn

from backbones.backbone import Backbone
from backbones.layers import Head, gaussian_init
from backbones.records import NO_BRANCH, Departure, Paper, Recipe, Reported, Variant
from backbones.registry import register

PAPER = Paper(
    title="ImageNet Classification with Deep Convolutional Neural Networks",
    authors="Krizhevsky, Sutskever, Hinton",
    year=2012,
    venue="NIPS 2012",
    builds_on=("lenet",),
)


class Row(NamedTuple):
    """One convolution of Figure 2, both towers together."""

    channels: int
    kernel_size: int
    stride: int
    padding: int
    groups: int = 1  # 2 where a tower sees its own maps only
    norm: bool = False  # local response normalisation
    pool: bool = False  # overlapping max-pooling, 3x3 stride 2


FIGURE_2 = (
    Row(96, 11, 4, 0, norm=True, pool=True),
    Row(256, 5, 1, 2, groups=2, norm=True, pool=True),
    Row(384, 3, 1, 1),
    Row(384, 3, 1, 1, groups=2),
    Row(256, 3, 1, 1, groups=2, pool=True),
)
ONE_TOWER = (
    Row(64, 11, 4, 2, pool=True),
    Row(192, 5, 1, 2, pool=True),
    Row(384, 3, 1, 1),
    Row(256, 3, 1, 1),
    Row(256, 3, 1, 1, pool=True),
)
WIDTH = 4096  # neurons of fc6 and fc7
GRID = 6  # side of the map that fc6 reads


def local_response_norm() -> nn.Module:
    """a / (2 + 1e-4 * sum of a^2 over 5 neighbouring channels)^0.75 (Sec. 3.3). Keeps the shape.

    torch divides alpha by the number of channels, the paper does not: hence 5e-4.
    """
    return nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)


def fully_connected_head(channels: int, grid: int, num_classes: int, drop_rate: float) -> Head:
    """fc6, fc7 (4096 neurons, ReLU and dropout on both) and fc8. (N, channels, grid, grid) -> (N, num_classes)."""
    fc6, fc7 = nn.Linear(channels * grid * grid, WIDTH), nn.Linear(WIDTH, WIDTH)
    neck = nn.Sequential(fc6, nn.ReLU(), nn.Dropout(drop_rate), fc7, nn.ReLU())
    return Head(WIDTH, num_classes, neck=neck, grid=grid, drop_rate=drop_rate)


def dropout_first_head(channels: int, grid: int, num_classes: int, drop_rate: float) -> Head:
    """As `fully_connected_head`, with dropout on the inputs of fc6 and fc7 instead of their outputs."""
    fc6, fc7 = nn.Linear(channels * grid * grid, WIDTH), nn.Linear(WIDTH, WIDTH)
    neck = nn.Sequential(nn.Dropout(drop_rate), fc6, nn.ReLU(), nn.Dropout(drop_rate), fc7, nn.ReLU())
    return Head(WIDTH, num_classes, neck=neck, grid=grid)


class AlexNet(Backbone):
    """AlexNet, 227x227 images.

    The normalisation runs over the maps of both towers, which the paper leaves open. Weights N(0, 0.01^2); biases 1 in
    conv2, conv4, conv5, fc6 and fc7, 0 elsewhere (Sec. 5).
    """

    def __init__(
        self, one_tower: bool = False, num_classes: int = 1000, in_channels: int = 3, drop_rate: float = 0.5
    ) -> None:
        convs, stages, channels = [], [], in_channels
        for row in ONE_TOWER if one_tower else FIGURE_2:
            convs.append(nn.Conv2d(channels, row.channels, row.kernel_size, row.stride, row.padding, groups=row.groups))
            stages.append(nn.Sequential(convs[-1], nn.ReLU()))
            if row.norm:
                stages[-1].append(local_response_norm())
            if row.pool:
                stages[-1].append(nn.MaxPool2d(3, 2))
            channels = row.channels
        head = (dropout_first_head if one_tower else fully_connected_head)(channels, GRID, num_classes, drop_rate)
        super().__init__(
            stem=nn.Identity(),
            stages=stages,
            head=head,
            in_channels=in_channels,
            min_size=63 if one_tower else 67,
            init=gaussian_init(0.01),
        )
        linears = [m for m in head.neck.modules() if isinstance(m, nn.Linear)]
        for bias in (layer.bias for layer in (convs[1], convs[3], convs[4], *linears)):
            nn.init.constant_(cast(Tensor, bias), 1.0)


RECIPE = Recipe(
    source="Sec. 4 and 5",
    epochs=90,
    batch_size=128,
    lr=0.01,
    momentum=0.9,
    weight_decay=0.0005,
    sched="plateau",
    decay_rate=0.1,
    crop="side",
    scale=(256 / 227, 256 / 227),
    crop_from="square",
    hflip=0.5,
    lighting=0.1,
    deviations=(
        "the mean and deviation of each channel in place of the mean of each pixel",
        "the rate falls after 10 epochs without progress, where the authors lowered it by hand",
    ),
)
CROP = 227 / 256

SEVEN = "10 crops, 7 networks: the 5, and 2 with a sixth convolution, pre-trained on all of ImageNet of 2011"

register(
    Variant(
        "alexnet",
        AlexNet,
        PAPER,
        settings={},
        recipe=RECIPE,
        input_size=(3, 227, 227),
        crop=CROP,
        cannot=NO_BRANCH,
        reported=(
            Reported("Abstract", params=60e6),
            Reported("Fig. 2", maps=(27, 13, 13, 13, 6)),
            Reported("Table 2", top1=100 - 40.7, top5=100 - 18.2, protocol="10 crops"),
            Reported("Table 2", top1=100 - 38.1, top5=100 - 16.4, protocol="10 crops, 5 networks"),
            Reported("Table 2", top1=100 - 36.7, top5=100 - 15.4, protocol=SEVEN),
        ),
    ),
    Variant(
        "alexnet.tv",
        AlexNet,
        PAPER,
        settings={"one_tower": True},
        cannot=NO_BRANCH,
        departures=(
            Departure("one tower of 64-192-384-256-256 channels", "two towers, together 96-256-384-384-256", "Fig. 2"),
            Departure("no local response normalisation", "after conv1 and conv2", "Sec. 3.3"),
            Departure(
                "224x224 images, conv1 padded by 2", "an input that makes 55x55 maps: 227x227, unpadded", "Fig. 2"
            ),
            Departure("dropout before fc6 and fc7", "dropout on the outputs of fc6 and fc7", "Sec. 4.2"),
        ),
    ),
)
