"""ResNet (He, Zhang, Ren, Sun, 2015): blocks that learn what to add to their input. Source: Table 1 and Sec. 4.2."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from backbones.backbone import Backbone
from backbones.layers import DropPath, Head, he_init
from backbones.records import Departure, Paper, Recipe, Reported, Variant
from backbones.registry import register

PAPER = Paper(
    title="Deep Residual Learning for Image Recognition",
    authors="He, Zhang, Ren, Sun",
    year=2015,
    venue="CVPR 2016",
    arxiv="1512.03385",
    builds_on=("vgg",),
)

TABLE_1 = {  # depth -> blocks in conv2_x, conv3_x, conv4_x, conv5_x
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
CHANNELS = (64, 128, 256, 512)  # of the 3x3 convolutions; a bottleneck puts out four times as many
EXPANSION = 4
BOTTLENECK_FROM = 50
CIFAR_CHANNELS = (16, 32, 64)  # Sec. 4.2: depth 6n + 2

Shortcut = Literal["A", "B", "C", "none"]
SHORTCUTS = get_args(Shortcut)


def conv_norm(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """Convolution without bias that keeps the map's size up to its stride, then batch norm."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(out_channels)]


def basic_branch(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """3x3, 3x3 (Fig. 5 left). (N, in_channels, H, W) -> (N, out_channels, H/stride, W/stride)."""
    first = conv_norm(in_channels, out_channels, 3, stride)
    return nn.Sequential(*first, nn.ReLU(), *conv_norm(out_channels, out_channels, 3))


def bottleneck_branch(
    in_channels: int, out_channels: int, stride: int, stride_in: str, groups: int = 1, group_width: int = CHANNELS[0]
) -> nn.Sequential:
    """1x1, 3x3, 1x1 (Fig. 5 right). (N, in_channels, H, W) -> (N, out_channels, H/stride, W/stride).

    `group_width` are the channels of each group of the 3x3 convolution in conv2_x; they grow with `out_channels`.
    """
    width = groups * group_width * out_channels // (CHANNELS[0] * EXPANSION)
    first, second = (stride, 1) if stride_in == "1x1" else (1, stride)
    return nn.Sequential(
        *conv_norm(in_channels, width, 1, first),
        nn.ReLU(),
        *conv_norm(width, width, 3, second, groups),
        nn.ReLU(),
        *conv_norm(width, out_channels, 1),
    )


class PaddedIdentity(nn.Module):
    """Option A: every stride-th value, zeros for new channels. (N, C, H, W) -> (N, C + extra, H/stride, W/stride)."""

    def __init__(self, extra: int, stride: int) -> None:
        super().__init__()
        self.extra = extra
        self.subsample = nn.AvgPool2d(1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(self.subsample(x), (0, 0, 0, 0, 0, self.extra))


def make_shortcut(kind: Shortcut, in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Options A, B and C of Sec. 4.1: padded identity, projection where the size changes, projection everywhere."""
    if kind not in SHORTCUTS:
        raise ValueError(f"shortcut={kind!r}; give one of {', '.join(SHORTCUTS)}")
    if kind == "C" or (kind == "B" and (stride > 1 or in_channels != out_channels)):
        return nn.Sequential(*conv_norm(in_channels, out_channels, 1, stride))
    if stride > 1 or in_channels != out_channels:
        return PaddedIdentity(out_channels - in_channels, stride)
    return nn.Identity()


class ResidualBlock(nn.Module):
    """relu(shortcut(x) + branch(x)), eq. 1 and 2. (N, C, H, W) -> what the branch makes of it."""

    def __init__(self, branch: nn.Sequential, shortcut: nn.Module, drop_path_rate: float) -> None:
        super().__init__()
        self.branch, self.shortcut = branch, shortcut
        self.drop_path = DropPath(drop_path_rate)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.shortcut(x) + self.drop_path(self.branch, x))


class Plan(NamedTuple):
    """The blocks of one residual network."""

    blocks: tuple[int, ...]  # per stage
    channels: tuple[int, ...]  # put out by each stage
    strides: tuple[int, ...]
    bottleneck: bool
    stride_in: Literal["1x1", "3x3"]
    shortcut: Shortcut
    drop_path_rate: float
    groups: int = 1  # of the 3x3 convolution of a bottleneck
    group_width: int = CHANNELS[0]  # channels of each group in conv2_x

    def stages(self, in_channels: int) -> list[nn.Sequential]:
        """Block l of L is dropped with probability l / L * drop_path_rate (1603.09382, eq. 4)."""
        stages, depth = [], 0
        for repeats, out_channels, first_stride in zip(self.blocks, self.channels, self.strides, strict=True):
            stage = nn.Sequential()
            for i in range(repeats):
                stride, depth = first_stride if i == 0 else 1, depth + 1
                stage.append(
                    self.block(in_channels, out_channels, stride, self.drop_path_rate * depth / sum(self.blocks))
                )
                in_channels = out_channels
            stages.append(stage)
        return stages

    def block(self, in_channels: int, out_channels: int, stride: int, drop_path_rate: float) -> nn.Module:
        branch = (
            bottleneck_branch(in_channels, out_channels, stride, self.stride_in, self.groups, self.group_width)
            if self.bottleneck
            else basic_branch(in_channels, out_channels, stride)
        )
        if self.shortcut == "none":
            return branch.append(nn.ReLU())
        shortcut = make_shortcut(self.shortcut, in_channels, out_channels, stride)
        return ResidualBlock(branch, shortcut, drop_path_rate)


class ResNet(Backbone):
    """ResNet for 224x224 images. conv1 is the stem; conv2_x to conv5_x the stages, the max-pooling in conv2_x.

    `he_init`, all residual branches alike (Sec. 3.4). `shortcut` is an option of Sec. 4.1, "none" the plain network;
    `stride_in` says which convolution of a bottleneck strides.
    """

    def __init__(
        self,
        depth: int,
        shortcut: Shortcut = "B",
        stride_in: Literal["1x1", "3x3"] = "1x1",
        num_classes: int = 1000,
        in_channels: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        if depth not in TABLE_1 or stride_in not in ("1x1", "3x3"):
            raise ValueError(
                f"depth={depth}, stride_in={stride_in!r}; depths are {list(TABLE_1)}, strides in 1x1 or 3x3"
            )
        bottleneck = depth >= BOTTLENECK_FROM
        channels = tuple(c * EXPANSION if bottleneck else c for c in CHANNELS)
        plan = Plan(TABLE_1[depth], channels, (1, 2, 2, 2), bottleneck, stride_in, shortcut, drop_path_rate)
        stages = plan.stages(64)
        stages[0].insert(0, nn.MaxPool2d(3, 2, 1))
        super().__init__(
            stem=nn.Sequential(*conv_norm(in_channels, 64, 7, 2), nn.ReLU()),
            stages=stages,
            head=Head(channels[-1], num_classes, drop_rate=drop_rate),
            in_channels=in_channels,
            min_size=32,
            init=he_init,
        )


class CifarResNet(Backbone):
    """ResNet for 32x32 images: three stages of (depth - 2) / 6 basic blocks (Sec. 4.2). `he_init`."""

    def __init__(
        self,
        depth: int,
        shortcut: Shortcut = "A",
        num_classes: int = 10,
        in_channels: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        repeats, rest = divmod(depth - 2, 6)
        if rest or repeats < 1:
            raise ValueError(f"depth={depth}; give 6n + 2, such as 20, 32, 44, 56 or 110")
        plan = Plan((repeats,) * 3, CIFAR_CHANNELS, (1, 2, 2), False, "3x3", shortcut, drop_path_rate)
        super().__init__(
            stem=nn.Sequential(*conv_norm(in_channels, CIFAR_CHANNELS[0], 3), nn.ReLU()),
            stages=plan.stages(CIFAR_CHANNELS[0]),
            head=Head(CIFAR_CHANNELS[-1], num_classes, drop_rate=drop_rate),
            in_channels=in_channels,
            min_size=4,
            init=he_init,
        )


PER_CHANNEL = "the mean and deviation of each channel in place of the mean of each pixel"
RECIPE = Recipe(
    source="Sec. 3.4",
    epochs=120,  # 60e4 iterations of 256 images
    batch_size=256,
    lr=0.1,
    momentum=0.9,
    weight_decay=0.0001,
    sched="plateau",
    decay_rate=0.1,
    crop="side",
    scale=(256 / 224, 480 / 224),
    hflip=0.5,
    lighting=0.1,
    deviations=(
        PER_CHANNEL,
        "the rate falls after 10 epochs without progress; the paper does not say how long it waits",
    ),
    elsewhere={"lighting": "AlexNet's, to which Sec. 3.4 refers"},
)
CIFAR_RECIPE = Recipe(
    source="Sec. 4.2",
    epochs=182,  # 64k iterations of 128 images, 45k images
    batch_size=128,
    lr=0.1,
    momentum=0.9,
    weight_decay=0.0001,
    sched="step",
    milestones=(32 / 64, 48 / 64),
    decay_rate=0.1,
    crop="pad",
    crop_pad=4,
    hflip=0.5,
    deviations=(PER_CHANNEL,),
)
WARM_RECIPE = replace(
    CIFAR_RECIPE,
    warmup_epochs=400 / (45_000 / 128),
    warmup_rate=0.1,
    warmup_ramp=False,
    deviations=(PER_CHANNEL, "a rate of 0.01 for 400 steps, in place of until the training error is below 80 %"),
)

OPTION_B = Departure(
    "projections where the size changes (option B)",
    "zero-padded identities (option A) at this depth, and B only in a comparison of 34 layers",
    "Tables 2 and 3",
)
STRIDE_IN_3X3 = Departure("stride in the 3x3 of a bottleneck", "stride in its first 1x1", "Table 1")
NO_SHORTCUT = {"drop_path_rate": "a plain network has no shortcuts: a dropped block would cut it in two"}
MAPS = Reported("Table 1", maps=(56, 28, 14, 7))
CIFAR_MAPS = Reported("Sec. 4.2", maps=(32, 16, 8))


def ten_crops(source: str, top1: float, top5: float | None = None) -> Reported:
    """Errors in percent, as the tables print them."""
    return Reported(source, top1=100 - top1, top5=top5 and 100 - top5, protocol="10 crops")


def imagenet(name: str, settings: Mapping[str, Any], *reported: Reported, **more: Any) -> None:
    register(Variant(name, ResNet, PAPER, settings, reported, recipe=RECIPE, **more))


def cifar(name: str, settings: Mapping[str, Any], *reported: Reported, **more: Any) -> None:
    shape: dict[str, Any] = {"input_size": (3, 32, 32), "crop": 1.0, "num_classes": 10}
    given = {"recipe": CIFAR_RECIPE, **shape, **more}
    register(Variant(name, CifarResNet, PAPER, settings, (CIFAR_MAPS, *reported), **given))


def several_scales(top1: float, top5: float) -> Reported:
    how = "dense evaluation at five scales, one network"
    return Reported("Table 4", top1=100 - top1, top5=100 - top5, protocol=how)


def released(top1: float, top5: float) -> Reported:
    """Of the authors' weights, on the page that offers them."""
    return Reported("authors' release, README", top1=100 - top1, top5=100 - top5, protocol="one centre crop")


SIX = Reported(
    "Table 5",
    top5=100 - 3.57,
    data="ImageNet test",
    protocol="dense evaluation at several scales, 6 networks of different depths, 2 of them this",
)
MADDS = {18: 1.8e9, 34: 3.6e9, 50: 3.8e9, 101: 7.6e9, 152: 11.3e9}  # Table 1
ERRORS = {
    18: (ten_crops("Table 2", 27.88),),
    34: (ten_crops("Table 3", 25.03, 7.76),),
    50: (ten_crops("Table 3", 22.85, 6.71), several_scales(20.74, 5.25), released(24.7, 7.8)),
    101: (ten_crops("Table 3", 21.75, 6.05), several_scales(19.87, 4.60), released(23.6, 7.1)),
    152: (ten_crops("Table 3", 21.43, 5.71), several_scales(19.38, 4.49), released(23.0, 6.7), SIX),
}
PLAIN_ERRORS = {18: ten_crops("Table 2", 27.94), 34: ten_crops("Table 3", 28.54, 10.02)}
OPTION_B_ERRORS = {34: (ten_crops("Table 3", 24.52, 7.46), several_scales(21.84, 5.71))}

for depth, madds in MADDS.items():
    size, basic = replace(MAPS, madds=madds), depth < BOTTLENECK_FROM
    twin = {"depth": depth, "shortcut": "B", "stride_in": "3x3"}
    departs = (OPTION_B if basic else STRIDE_IN_3X3,)
    imagenet(f"resnet{depth}", {"depth": depth, "shortcut": "A" if basic else "B"}, size, *ERRORS[depth])
    imagenet(f"resnet{depth}.tv", twin, *OPTION_B_ERRORS.get(depth, ()), departures=departs)
for depth, errors in PLAIN_ERRORS.items():
    size = replace(MAPS, madds=MADDS[depth])
    imagenet(f"plain{depth}", {"depth": depth, "shortcut": "none"}, size, errors, cannot=NO_SHORTCUT)

TABLE_6 = {20: (0.27e6, 8.75), 32: (0.46e6, 7.51), 44: (0.66e6, 7.17), 56: (0.85e6, 6.97)}  # params, error
TABLE_6 |= {110: (1.7e6, 6.43), 1202: (19.4e6, 7.93)}
PLAIN_DEPTHS = (20, 32, 44, 56)  # Fig. 6 draws their curves, the paper prints no errors

for depth, (params, error) in TABLE_6.items():
    how = "one view, best of 5 runs" if depth == 110 else "one view"
    claim = Reported("Table 6", params=params, top1=100 - error, data="CIFAR-10 test", protocol=how)
    warm = {"recipe": WARM_RECIPE} if depth == 110 else {}
    cifar(f"resnet{depth}_cifar", {"depth": depth}, claim, **warm)
for depth in PLAIN_DEPTHS:
    cifar(f"plain{depth}_cifar", {"depth": depth, "shortcut": "none"}, cannot=NO_SHORTCUT)
