"""Inception-v2 and v3 (Szegedy et al., 2015): large filters become rows of small ones.

Source: Table 1, Fig. 5 to 8 and 10.
"""

import math
from typing import Any, Literal, NamedTuple, get_args

from torch import nn

from backbones.backbone import Backbone
from backbones.layers import AuxHead, Head
from backbones.models.googlenet import NO_BRANCH, Branches
from backbones.records import ONE_WORKER, Departure, Paper, Recipe, Reported, Variant
from backbones.registry import register

PAPER = Paper(
    title="Rethinking the Inception Architecture for Computer Vision",
    authors="Szegedy, Vanhoucke, Ioffe, Shlens, Wojna",
    year=2015,
    venue="CVPR 2016",
    arxiv="1512.00567",
    builds_on=("googlenet",),
)

Kernel = int | tuple[int, int]  # (height, width) of one that is not square


class Row(NamedTuple):
    """One line of Table 1 above the Inception modules."""

    kernel_size: int
    stride: int
    channels: int = 0  # 0: a max-pooling
    padded: bool = False


TABLE_1 = (  # one group per resolution; the last line, unmarked in the paper, keeps 35x35 and so must be padded
    (Row(3, 2, 32), Row(3, 1, 32), Row(3, 1, 64, padded=True)),  # the 7x7 of old in three steps (Sec. 6)
    (Row(3, 2), Row(3, 1, 80)),
    (Row(3, 2, 192), Row(3, 1, 288, padded=True)),
)
RELEASED = (TABLE_1[0], (Row(3, 2), Row(1, 1, 80), Row(3, 1, 192)), (Row(3, 2),))

# Table 1 counts the modules and prints what each group puts out. The banks inside, which it leaves to a supplement,
# are those of the authors' release; that has four modules at 17x17, and the fifth repeats the fourth.
FIG_5 = (64, 64, 64)  # per module: filters behind the pooling, so that 288 come out
RELEASED_FIG_5 = (32, 64, 64)
FIG_6 = (128, 160, 160, 192, 192)  # per module: filters between the first and the last convolution of a branch
RELEASED_FIG_6 = FIG_6[:4]

Release = Literal["paper", "torchvision", "keras"]
RELEASES = get_args(Release)


def conv_norm(
    in_channels: int, out_channels: int, kernel_size: Kernel, stride: int = 1, pad: bool = True
) -> nn.Sequential:
    """relu(norm(conv(x))) without bias. (N, in_channels, H, W) -> (N, out_channels, H/stride, W/stride), or a little
    less if unpadded."""
    height, width = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
    padding = (height // 2, width // 2) if pad else (0, 0)
    conv = nn.Conv2d(in_channels, out_channels, (height, width), stride, padding, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels, eps=1e-3), nn.ReLU())


def branch(in_channels: int, *convs: tuple[Kernel, int], valid_stride: int = 0) -> nn.Sequential:
    """Convolutions (kernel size, channels) in a row, padded; with a `valid_stride` the last strides and is not."""
    layers = nn.Sequential()
    for i, (kernel_size, channels) in enumerate(convs, 1):
        valid = valid_stride > 0 and i == len(convs)
        layers.append(conv_norm(in_channels, channels, kernel_size, valid_stride if valid else 1, pad=not valid))
        in_channels = channels
    return layers


def pool_branch(in_channels: int, out_channels: int, count_include_pad: bool = False) -> nn.Sequential:
    """1x1(mean over 3x3). (N, in_channels, H, W) -> (N, out_channels, H, W)."""
    pool = nn.AvgPool2d(3, 1, 1, count_include_pad=count_include_pad)
    return nn.Sequential(pool, conv_norm(in_channels, out_channels, 1))


def fan(in_channels: int, channels: int) -> Branches:
    """1x3 beside 3x1 (Fig. 7). (N, in_channels, H, W) -> (N, 2 * channels, H, W)."""
    return Branches(conv_norm(in_channels, channels, (1, 3)), conv_norm(in_channels, channels, (3, 1)))


def figure_5(in_channels: int, pooled: int, kernel_size: int, count_include_pad: bool) -> Branches:
    """1x1, a 3x3, two 3x3 and a pooling side by side. (N, in_channels, 35, 35) -> (N, 224 + pooled, 35, 35)."""
    return Branches(
        branch(in_channels, (1, 64)),
        branch(in_channels, (1, 48), (kernel_size, 64)),
        branch(in_channels, (1, 64), (3, 96), (3, 96)),
        pool_branch(in_channels, pooled, count_include_pad),
    )


def figure_6(width: int, column_first: bool, count_include_pad: bool) -> Branches:
    """1x1, a 7x7 and two 7x7 in 1x7 and 7x1, and a pooling side by side. (N, 768, 17, 17) -> the same shape.

    `column_first` turns the order of the longest branch round.
    """
    a, b = ((7, 1), (1, 7)) if column_first else ((1, 7), (7, 1))
    return Branches(
        branch(768, (1, 192)),
        branch(768, (1, width), ((1, 7), width), ((7, 1), 192)),
        branch(768, (1, width), (a, width), (b, width), (a, width), (b, 192)),
        pool_branch(768, 192, count_include_pad),
    )


def figure_7(in_channels: int, count_include_pad: bool) -> Branches:
    """1x1, a fan, a fan behind a 3x3, and a pooling side by side. (N, in_channels, 8, 8) -> (N, 2048, 8, 8)."""
    return Branches(
        branch(in_channels, (1, 320)),
        branch(in_channels, (1, 384)).append(fan(384, 384)),
        branch(in_channels, (1, 448), (3, 384)).append(fan(384, 384)),
        pool_branch(in_channels, 192, count_include_pad),
    )


def first_reduction() -> Branches:
    """A 3x3, two 3x3 and a pooling, stride 2 (Fig. 10). (N, 288, 35, 35) -> (N, 768, 17, 17)."""
    return Branches(
        branch(288, (3, 384), valid_stride=2),
        branch(288, (1, 64), (3, 96), (3, 96), valid_stride=2),
        nn.MaxPool2d(3, 2),
    )


def second_reduction() -> Branches:
    """A 3x3, a 7x7 and 3x3, and a pooling, stride 2 (Fig. 10). (N, 768, 17, 17) -> (N, 1280, 8, 8)."""
    return Branches(
        branch(768, (1, 192), (3, 320), valid_stride=2),
        branch(768, (1, 192), ((1, 7), 192), ((7, 1), 192), (3, 192), valid_stride=2),
        nn.MaxPool2d(3, 2),
    )


class AuxClassifier(nn.Linear):
    """A linear layer that `released_init` starts from N(0, 0.001^2)."""


def auxiliary(num_classes: int, normalised: bool) -> AuxHead:
    """Mean over 5x5, 1x1, fully connected layer, classifier (Fig. 8). (N, 768, 17, 17) -> (N, num_classes)."""
    connected = conv_norm(128, 768, 5, pad=False) if normalised else nn.Sequential(nn.Conv2d(128, 768, 5), nn.ReLU())
    head = Head(768, num_classes, classifier=AuxClassifier)
    return AuxHead(nn.Sequential(conv_norm(768, 128, 1), connected), head, least=5)


def released_init(module: nn.Module) -> None:
    """Weights N(0, 2 / fan_in) cut at two deviations, biases 0: the authors' release; the paper prints none."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        he = math.sqrt(1.3 * 2 / module.weight[0].numel())  # 1.3 makes up for the cut
        truncated_init(module, 0.001 if isinstance(module, AuxClassifier) else he)


def truncated_init(layer: nn.Conv2d | nn.Linear, std: float) -> None:
    """Weights N(0, std^2) cut at two deviations, biases 0."""
    nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class InceptionV3(Backbone):
    """Inception-v2 and v3, 299x299 images. The factorised 7x7 is the stem; the stages have strides 4, 8, 16 and 32.

    Both have the auxiliary classifier of Fig. 8, its widths as released; with `bn_auxiliary` its fully connected layer
    is normalised too, and v2 becomes v3 (Sec. 10). `release` "torchvision" and "keras" are those libraries' forms of
    the authors' release. `released_init`; in the auxiliary classifier the release takes deviations of 0.01 and 0.001.
    """

    def __init__(
        self,
        release: Release = "paper",
        bn_auxiliary: bool = True,
        aux: bool = True,
        num_classes: int = 1000,
        in_channels: int = 3,
        drop_rate: float = 0.2,
    ) -> None:
        if release not in RELEASES:
            raise ValueError(f"release={release!r}; give one of {', '.join(RELEASES)}")
        ported, count_include_pad = release != "paper", release == "torchvision"
        parts, channels = [], in_channels
        for rows in RELEASED if ported else TABLE_1:
            parts.append(nn.Sequential())
            for size, stride, width, padded in rows:
                layer = conv_norm(channels, width, size, stride, padded) if width else nn.MaxPool2d(size, stride)
                parts[-1].append(layer)
                channels = width or channels
        stem, *stages = parts
        for pooled in RELEASED_FIG_5 if ported else FIG_5:
            stages[-1].append(figure_5(channels, pooled, 5 if ported else 3, count_include_pad))
            channels = 224 + pooled
        widths = RELEASED_FIG_6 if ported else FIG_6
        stages.append(
            nn.Sequential(first_reduction(), *(figure_6(width, ported, count_include_pad) for width in widths))
        )
        fans = (figure_7(channels, count_include_pad) for channels in (1280, 2048))
        stages.append(nn.Sequential(second_reduction(), *fans))
        taps = {(2, len(widths)): auxiliary(num_classes, bn_auxiliary)} if aux else {}
        super().__init__(
            stem=stem,
            stages=stages,
            head=Head(2048, num_classes, drop_rate=drop_rate),
            in_channels=in_channels,
            min_size=75,
            init=released_init,
            aux=taps,
        )
        for module in self.aux.modules():
            if isinstance(module, nn.Conv2d) and module.kernel_size == (5, 5):
                truncated_init(module, 0.01)


BRIGHTNESS = (
    "brightness is scaled, and contrast taken about the mean grey, where the release adds and takes channel means"
)
DISTORTION = ("crop", "scale", "ratio", "hflip", "brightness", "contrast", "saturation", "hue")
NOT_PRINTED = (*DISTORTION, "aux_weight", "weight_decay", "decay_norm", "model_ema_decay", "momentum", "bn_momentum")
RECIPE = Recipe(
    source="Sec. 7 and 8",
    epochs=100,
    batch_size=32,
    lr=0.045,
    opt="rmsprop",
    momentum=0.9,
    alpha=0.9,
    eps=1.0,
    weight_decay=0.00004,
    decay_norm=False,
    sched="exponential",
    decay_rate=0.94,
    decay_epochs=2.0,
    smoothing=0.1,
    aux_weight=0.4,
    clip_grad=2.0,
    model_ema=True,
    model_ema_decay=0.9999,
    crop="area",
    scale=(0.05, 1.0),
    ratio=(3 / 4, 4 / 3),
    hflip=0.5,
    brightness=32 / 255,
    contrast=0.5,
    saturation=0.5,
    hue=0.2,
    bn_momentum=0.0003,
    deviations=(
        ONE_WORKER,
        BRIGHTNESS,
    ),
    elsewhere=dict.fromkeys(NOT_PRINTED, "the authors' release"),
)
SUBSET = "ImageNet-1k validation, the 48,238 images that are not blacklisted"


def errors(source: str, top1: float, top5: float, crops: str) -> Reported:
    return Reported(source, top1=100 - top1, top5=100 - top5, data=SUBSET, protocol=crops)


MAPS = Reported("Table 1", maps=(71, 35, 17, 8))
OPEN = (
    "26.4 M and 6.48 G with Table 1's five modules at 17x17 and the released filter banks, for the paper leaves its "
    "own to a supplement; if a grid reduction is the fifth, as released, 24.3 M and 5.86 G"
)
COSTS = (
    Reported("Abstract", params=25e6, madds=5e9, gap=OPEN),  # "less than 25 million"
    Reported("Table 3", madds=4.8e9, gap=OPEN),
)
V3_ERRORS = (
    errors("Table 3", 21.2, 5.6, "single crop"),
    errors("Table 4", 19.47, 4.48, "12 crops"),
    errors("Table 4", 18.77, 4.2, "144 crops"),
    errors("Table 5 and its caption", 17.2, 3.46, "144 crops, 4 networks"),
)
RELEASED_DEPARTURES = (
    Departure("a 1x1 convolution to 80 channels", "3x3", "Table 1"),
    Departure("a 3x3 convolution to 192 channels, stride 1, and a max-pooling", "one of stride 2", "Table 1"),
    Departure("192 channels enter the 35x35 modules", "a padded 3x3 convolution makes 288 of them", "Table 1"),
    Departure("the first 35x35 module puts out 256 channels", "288", "Table 1"),
    Departure("a 5x5 convolution in the 35x35 modules", "a 3x3", "Fig. 5"),
    Departure("four modules at 17x17", "five", "Table 1"),
    Departure("the longest branch of a 17x17 module starts with 7x1", "with 1x7", "Fig. 6"),
)
TORCHVISION_DEPARTURES = (
    Departure(
        "zeros of the padding count in a mean over 3x3", "not said; they do not in the authors' release", "Fig. 5"
    ),
    Departure("dropout 0.5", "not said; 0.2 in the authors' release", "Sec. 8"),
)
SHAPE: dict[str, Any] = {"input_size": (3, 299, 299), "cannot": NO_BRANCH}

register(
    Variant(
        "inception_v2_rethinking",
        InceptionV3,
        PAPER,
        settings={"bn_auxiliary": False, "aux": True},
        reported=(MAPS, COSTS[1], errors("Table 3, Factorized 7x7", 21.6, 5.8, "single crop")),
        recipe=RECIPE,
        **SHAPE,
    ),
    Variant(
        "inception_v3",
        InceptionV3,
        PAPER,
        settings={"bn_auxiliary": True, "aux": True},
        reported=(MAPS, *COSTS, *V3_ERRORS),
        recipe=RECIPE,
        **SHAPE,
    ),
    Variant(
        "inception_v3.tv",
        InceptionV3,
        PAPER,
        settings={"release": "torchvision", "aux": True, "drop_rate": 0.5},
        reported=(Reported("1707.07012, Table 2", params=23.8e6, madds=5.72e9),),
        departures=(*RELEASED_DEPARTURES, *TORCHVISION_DEPARTURES),
        recipe=RECIPE,
        **SHAPE,
    ),
    Variant(
        "inception_v3.keras",
        InceptionV3,
        PAPER,
        settings={"release": "keras", "aux": True},
        departures=RELEASED_DEPARTURES,
        recipe=RECIPE,
        **SHAPE,
    ),
)
