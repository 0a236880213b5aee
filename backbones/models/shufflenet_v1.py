"""ShuffleNet (Zhang, Zhou, Lin, Sun, 2017): grouped layers, and channels shuffled between them. Source: Table 1."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from backbones.backbone import Backbone
from backbones.layers import Head, he_init
from backbones.models.resnet import ResidualBlock, conv_norm
from backbones.records import Paper, Recipe, Reported, Variant
from backbones.registry import register

PAPER = Paper(
    title="ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices",
    authors="Zhang, Zhou, Lin, Sun",
    year=2017,
    venue="CVPR 2018",
    arxiv="1707.01083",
    builds_on=("resnet",),
)


class Stage(NamedTuple):
    """One stage of Table 1: a unit with stride 2, then units with stride 1."""

    repeat: int  # of the units with stride 1
    channels: dict[int, int]  # groups of the 1x1 convolutions -> output channels


TABLE_1 = (
    Stage(3, {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}),
    Stage(7, {1: 288, 2: 400, 3: 480, 4: 544, 8: 768}),
    Stage(3, {1: 576, 2: 800, 3: 960, 4: 1088, 8: 1536}),
)
GROUPS = tuple(TABLE_1[0].channels)
STEMS = {0.25: 12, 0.5: 12, 1.0: 24, 1.5: 24, 2.0: 48}  # width -> channels of conv1: they fit the printed complexities
STEMS_OF_8 = {0.25: 8, 0.5: 16}  # 8 groups do not divide what the first unit adds to 12 channels
BOTTLENECK = 4  # output channels over those of the 3x3 convolution (Sec. 3.3)


class ChannelShuffle(nn.Module):
    """Channel i of group g becomes channel g of group i (Sec. 3.1). Keeps the shape."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        n, channels, height, width = x.shape
        grouped = x.reshape(n, self.groups, channels // self.groups, height, width)
        return grouped.transpose(1, 2).reshape(n, channels, height, width)

    def extra_repr(self) -> str:
        return f"groups={self.groups}"


def pointwise(in_channels: int, out_channels: int, groups: int) -> list[nn.Module]:
    """norm(grouped 1x1(x)). (N, in_channels, H, W) -> (N, out_channels, H, W)."""
    conv = nn.Conv2d(in_channels, out_channels, 1, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(out_channels)]


def shuffle_branch(
    in_channels: int, width: int, out_channels: int, stride: int, groups: int, first_groups: int
) -> nn.Sequential:
    """narrow, shuffle, filter, widen (Fig. 2). (N, in_channels, H, W) -> (N, out_channels, H/stride, W/stride)."""
    return nn.Sequential(
        *pointwise(in_channels, width, first_groups),
        nn.ReLU(),
        ChannelShuffle(groups),
        nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False),
        nn.BatchNorm2d(width),
        *pointwise(width, out_channels, groups),
    )


class StridedUnit(nn.Module):
    """relu(concat(pool(x), branch(x))), Fig. 2c. (N, C, H, W) -> (N, C + the branch's, H/2, W/2)."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch, self.shortcut, self.relu = branch, nn.AvgPool2d(3, 2, 1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(torch.cat([self.shortcut(x), self.branch(x)], 1))


class ShuffleNetV1(Backbone):
    """ShuffleNet, 224x224 images; `width` multiplies the channels of the stages. conv1 and max-pooling are the stem.

    The first 1x1 convolution of stage 2 has no groups, as it reads few channels (Sec. 3.3). The paper leaves open the
    order of the concatenation and the channels of conv1 at other widths than 1: they are the authors' release's, where
    it has that network. It also leaves open what becomes of a quarter of the channels that the groups do not divide
    (2 and 4 groups at widths below 1): it is rounded down to whole groups. `he_init`: training follows ResNeXt's,
    which starts as ResNet's (Sec. 4).
    """

    def __init__(
        self,
        groups: int = 3,
        width: float = 1.0,
        num_classes: int = 1000,
        in_channels: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        if groups not in GROUPS or width not in STEMS:
            raise ValueError(f"groups={groups}, width={width}; groups are {list(GROUPS)}, widths {list(STEMS)}")
        channels = STEMS_OF_8.get(width, STEMS[width]) if groups == 8 else STEMS[width]
        stem = nn.Sequential(*conv_norm(in_channels, channels, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        stages, depth, units = list[nn.Sequential](), 0, sum(1 + row.repeat for row in TABLE_1)
        for row in TABLE_1:
            stage, out_channels = nn.Sequential(), int(row.channels[groups] * width)
            middle = out_channels // BOTTLENECK // groups * groups
            for i in range(1 + row.repeat):
                depth += 1
                if i == 0:
                    first_groups = groups if stages else 1
                    more = out_channels - channels
                    stage.append(StridedUnit(shuffle_branch(channels, middle, more, 2, groups, first_groups)))
                else:
                    branch = shuffle_branch(out_channels, middle, out_channels, 1, groups, groups)
                    stage.append(ResidualBlock(branch, nn.Identity(), drop_path_rate * depth / units))
            channels = out_channels
            stages.append(stage)
        super().__init__(
            stem=stem,
            stages=stages,
            head=Head(channels, num_classes, drop_rate=drop_rate),
            in_channels=in_channels,
            min_size=32,
            init=he_init,
        )


RECIPE = Recipe(
    source="Sec. 4",
    epochs=240,  # 3e5 iterations of 1024 images
    batch_size=1024,
    lr=0.5,
    momentum=0.9,
    nesterov=True,
    weight_decay=4e-5,
    sched="linear",
    crop="area",
    scale=(0.08, 1.0),
    hflip=0.5,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    deviations=("crops of 8 to 100 % of the image, where the paper says slightly milder ones than ResNeXt's",),
    elsewhere={
        **dict.fromkeys(("scale", "brightness", "contrast", "saturation"), "the authors' release"),
        **dict.fromkeys(
            ("momentum", "nesterov", "crop", "hflip"), "1611.05431, ResNeXt's training, which the paper follows"
        ),
    },
)
RELEASE = "authors' release, page of ShuffleNetV1"
ONE_VIEW = "one view"
MAPS = Reported("Table 1", maps=(28, 14, 7))
COMPLEXITY = {1: 143e6, 2: 140e6, 3: 137e6, 4: 133e6, 8: 137e6}  # Table 1
TABLE_2 = {  # width -> groups -> top-1 error
    1.0: {1: 33.6, 2: 32.7, 3: 32.6, 4: 32.8, 8: 32.4},
    0.5: {1: 45.1, 2: 44.4, 3: 43.2, 4: 41.6, 8: 42.3},
    0.25: {1: 57.1, 2: 56.8, 3: 55.0, 4: 54.2, 8: 52.7},
}
HEADING = {0.5: 38e6, 0.25: 13e6}  # Table 2, once for all groups; at width 1 it is 140e6, and Table 1 is finer
GAPS = {  # width and groups -> why
    (0.5, 4): "printed once for all groups: a quarter of 136 channels is 34, which 4 groups do not divide",
    (0.25, 3): "the paper leaves the classifier out: 13.06 M without it",
    (0.25, 8): "printed once for all groups: 8 of them need 8 or 16 channels of conv1, not the 12 that fit the others",
    (0.5, 8): "printed once for all groups; the release prints 40 M for this one, with 16 channels of conv1",
}
LARGER = {  # width and groups -> what is printed of them; MobileNetV2 quotes the parameters
    (1.5, 3): (
        Reported("Table 5", madds=292e6, top1=100 - 28.5, protocol=ONE_VIEW),
        Reported("1801.04381, Table 4", params=3.4e6),
    ),
    (2.0, 3): (
        Reported("Table 5", madds=524e6, top1=100 - 26.3, protocol=ONE_VIEW),
        Reported("1801.04381, Table 4", params=5.4e6),
    ),
    (1.5, 8): (Reported(RELEASE, 4.3e6, 290e6, top1=100 - 29.0, top5=100 - 10.4, protocol=ONE_VIEW),),
    (2.0, 8): (Reported(RELEASE, 6.5e6, 522e6, top1=100 - 27.1, top5=100 - 9.2, protocol=ONE_VIEW),),
}


RELEASED = {(0.5, 8): (Reported(RELEASE, 1.0e6, 40e6, top1=100 - 41.2, top5=100 - 19.0, protocol=ONE_VIEW),)}


def shufflenet(groups: int, width: float, *reported: Reported) -> None:
    name = f"shufflenet_v1_g{groups}_x{width}".replace(".", "_")
    settings = {"groups": groups, "width": width}
    register(Variant(name, ShuffleNetV1, PAPER, settings, (MAPS, *reported), recipe=RECIPE))


for width, errors in TABLE_2.items():
    for groups, error in errors.items():
        madds, where = (COMPLEXITY[groups], "Table 1") if width == 1.0 else (HEADING[width], "Table 2")
        size = Reported(where, madds=madds, gap=GAPS.get((width, groups), ""))
        accuracy = Reported("Table 2", top1=100 - error, protocol=ONE_VIEW)
        shufflenet(groups, width, size, accuracy, *RELEASED.get((width, groups), ()))
for (width, groups), claims in LARGER.items():
    shufflenet(groups, width, *claims)
