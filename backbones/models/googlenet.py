"""GoogLeNet (Szegedy et al., 2014): filters of several sizes side by side, cheap by 1x1 layers. Source: Table 1."""

from collections.abc import Callable
from math import sqrt
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from backbones.backbone import Backbone
from backbones.layers import AuxHead, Head, gaussian_init
from backbones.models.alexnet import local_response_norm
from backbones.records import Departure, Paper, Recipe, Reported, Variant
from backbones.registry import register

PAPER = Paper(
    title="Going Deeper with Convolutions",
    authors="Szegedy, Liu, Jia, Sermanet, Reed, Anguelov, Erhan, Vanhoucke, Rabinovich",
    year=2014,
    venue="CVPR 2015",
    arxiv="1409.4842",
    builds_on=("alexnet",),
)


class Row(NamedTuple):
    """The channels of one Inception module, in the order of the table's columns."""

    c1: int  # "#1x1"
    c3_reduce: int  # "#3x3 reduce": the 1x1 before the 3x3
    c3: int  # "#3x3"
    c5_reduce: int  # "#5x5 reduce"
    c5: int  # "#5x5"
    pool_proj: int  # "pool proj": the 1x1 after the max-pooling

    @property
    def out_channels(self) -> int:
        return self.c1 + self.c3 + self.c5 + self.pool_proj


TABLE_1 = {  # the digit is the stage; a max-pooling with stride 2 comes before 3a, 4a and 5a
    "3a": Row(64, 96, 128, 16, 32, 32),
    "3b": Row(128, 128, 192, 32, 96, 64),
    "4a": Row(192, 96, 208, 16, 48, 64),
    "4b": Row(160, 112, 224, 24, 64, 64),
    "4c": Row(128, 128, 256, 24, 64, 64),
    "4d": Row(112, 144, 288, 32, 64, 64),
    "4e": Row(256, 160, 320, 32, 128, 128),
    "5a": Row(256, 160, 320, 32, 128, 128),
    "5b": Row(384, 192, 384, 48, 128, 128),
}
AUX_AFTER = ("4a", "4d")  # the modules whose maps the auxiliary classifiers read (Sec. 5)

Release = Literal["paper", "torchvision"]
RELEASES = get_args(Release)
Convolution = Callable[[int, int, int], list[nn.Module]]


def conv_relu(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> list[nn.Module]:
    """Convolution with bias that keeps the map's size up to its stride, then ReLU."""
    return [nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2), nn.ReLU()]


def conv_norm_relu(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int = 1,
    padding: int | None = None,
    eps: float = 1e-3,
) -> list[nn.Module]:
    """The same without bias and with batch norm before the ReLU; `padding` where it is not kernel_size // 2."""
    padding = kernel_size // 2 if padding is None else padding
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False)
    return [conv, nn.BatchNorm2d(out_channels, eps), nn.ReLU()]


class Branches(nn.Module):
    """concat(branch(x) of every branch). (N, C, H, W) -> (N, the branches' channels together, H', W')."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class NaiveInception(Branches):
    """concat(1x1(x), 3x3(x), 5x5(x), max(x)), Fig. 2a. (N, C, H, W) -> (N, c1 + c3 + c5 + C, H, W)."""

    def __init__(self, in_channels: int, c1: int, c3: int, c5: int) -> None:
        convs = [nn.Sequential(*conv_relu(in_channels, width, side)) for width, side in ((c1, 1), (c3, 3), (c5, 5))]
        super().__init__(*convs, nn.MaxPool2d(3, 1, 1))


class Inception(Branches):
    """concat(1x1(x), 3x3(1x1(x)), 5x5(1x1(x)), 1x1(max(x))), Fig. 2b. (N, C, H, W) -> (N, row.out_channels, H, W).

    `widest` is the side of the largest filters.
    """

    def __init__(self, in_channels: int, row: Row, conv: Convolution = conv_relu, widest: int = 5) -> None:
        super().__init__(
            nn.Sequential(*conv(in_channels, row.c1, 1)),
            nn.Sequential(*conv(in_channels, row.c3_reduce, 1), *conv(row.c3_reduce, row.c3, 3)),
            nn.Sequential(*conv(in_channels, row.c5_reduce, 1), *conv(row.c5_reduce, row.c5, widest)),
            nn.Sequential(nn.MaxPool2d(3, 1, 1), *conv(in_channels, row.pool_proj, 1)),
        )


def max_pool(kernel_size: int = 3) -> nn.Module:
    """Stride 2; windows may overhang the far edges, so that 112 becomes 56. (N, C, H, W) -> (N, C, H/2, W/2)."""
    return nn.MaxPool2d(kernel_size, 2, ceil_mode=True)


def aux_head(channels: int, num_classes: int, conv: Convolution) -> AuxHead:
    """5x5 mean, 1x1, fully connected layer, 70 % dropout, classifier (Sec. 5). (N, C, 14, 14) -> (N, num_classes)."""
    neck = nn.Sequential(nn.Linear(128 * 4 * 4, 1024), nn.ReLU())
    head = Head(1024, num_classes, neck=neck, grid=4, drop_rate=0.7)
    return AuxHead(nn.Sequential(*conv(channels, 128, 1)), head, least=4)


def caffe_init(module: nn.Module) -> None:
    """Weights uniform in +-sqrt(3 / fan_in), biases 0.2 in convolutions and 0 in classifiers."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        bound = sqrt(3 / module.weight[0].numel())
        nn.init.uniform_(module.weight, -bound, bound)
        if module.bias is not None:
            nn.init.constant_(module.bias, 0.2 if isinstance(module, nn.Conv2d) else 0.0)


class GoogLeNet(Backbone):
    """GoogLeNet, 224x224 images. conv1 is the stem; a stage opens with its max-pooling. `caffe_init`.

    The paper prints neither paddings nor the constants of its local response normalisation nor an initialisation.
    Those are Caffe's BVLC GoogLeNet, which was made with an author's help: symmetric padding of convolutions,
    poolings that overhang, uniform weights, biases of 0.2 in the fully connected layers too; and AlexNet's
    normalisation. `release` "torchvision" is torchvision's function, its weights N(0, 0.01^2).
    """

    def __init__(
        self,
        release: Release = "paper",
        aux: bool = True,
        num_classes: int = 1000,
        in_channels: int = 3,
        drop_rate: float = 0.4,
    ) -> None:
        if release not in RELEASES:
            raise ValueError(f"release={release!r}; give one of {', '.join(RELEASES)}")
        as_printed = release == "paper"
        conv = conv_relu if as_printed else conv_norm_relu
        widest, last_pool = (5, 3) if as_printed else (3, 2)
        stages = [nn.Sequential(max_pool(), nn.Sequential(*conv(64, 64, 1)), nn.Sequential(*conv(64, 192, 3)))]
        if as_printed:
            stages[0].insert(1, local_response_norm()).append(local_response_norm())
        channels, taps = 192, dict[tuple[int, int], AuxHead]()
        for digit in "345":
            stage = nn.Sequential(max_pool(last_pool if digit == "5" else 3))
            for name, row in ((n, r) for n, r in TABLE_1.items() if n.startswith(digit)):
                stage.append(Inception(channels, row, conv, widest))
                channels = row.out_channels
                if aux and name in AUX_AFTER:
                    taps[len(stages), len(stage) - 1] = aux_head(channels, num_classes, conv)
            stages.append(stage)
        super().__init__(
            stem=nn.Sequential(*conv(in_channels, 64, 7, 2)),
            stages=stages,
            head=Head(channels, num_classes, drop_rate=drop_rate),
            in_channels=in_channels,
            min_size=32,
            init=caffe_init if as_printed else gaussian_init(0.01),
            aux=taps,
        )
        for tap in taps.values():
            if not as_printed:
                tap.pool = nn.AdaptiveAvgPool2d(tap.least)
                continue
            for layer in (m for m in tap.head.neck.modules() if isinstance(m, nn.Linear)):
                nn.init.constant_(layer.bias, 0.2)


RECIPE = Recipe(
    source="Sec. 6",
    epochs=250,
    batch_size=32,
    lr=0.01,
    momentum=0.9,
    weight_decay=0.0002,
    sched="exponential",
    decay_rate=0.96,
    decay_epochs=8,
    aux_weight=0.3,
    model_ema=True,
    crop="area",
    scale=(0.08, 1.0),
    ratio=(3 / 4, 4 / 3),
    random_interpolation=True,
    hflip=0.5,
    brightness=0.5,
    contrast=0.5,
    saturation=0.5,
    lighting=0.1,
    deviations=(
        "one worker, at the rate of one, where the paper's many workers take such steps side by side",
        "an exponential moving average of the weights, in place of Polyak's average",
    ),
    elsewhere={
        **dict.fromkeys(("epochs", "batch_size", "lr", "weight_decay"), "Caffe's bvlc_googlenet"),
        **dict.fromkeys(("brightness", "contrast", "saturation", "lighting"), "1312.5402, to which the paper refers"),
        "aux_weight": "Sec. 5",
        "hflip": "usual in that challenge; the paper does not say",
    },
)
NO_BRANCH = {"drop_path_rate": "its branches are concatenated: without one of them, the next layer lacks channels"}
COLUMNS = (
    "a K of that column is 1024, so that its 6797.7K are 6.96 million; and conv1 stands there as a separable "
    "convolution with 8 filters per channel (34M), where the 7x7 of its own row needs 118M"
)


ERRORS = {  # top-5, Table 3
    "one network": {"1 crop": 10.07, "10 crops": 9.15, "144 crops": 7.89},
    "7 networks": {"1 crop": 8.09, "10 crops": 7.62, "144 crops": 6.67},
}

register(
    Variant(
        "googlenet",
        GoogLeNet,
        PAPER,
        settings={"aux": True},
        reported=(
            Reported("Table 1, sums of its columns", params=6.8e6, madds=1502e6, gap=COLUMNS),
            Reported("Table 1", maps=(56, 28, 14, 7)),
            *(
                Reported("Table 3", top5=100 - error, protocol=f"{crops}, {networks}")
                for networks, errors in ERRORS.items()
                for crops, error in errors.items()
            ),
        ),
        recipe=RECIPE,
        cannot=NO_BRANCH,
        aliases=("inception_v1",),
    ),
    Variant(
        "googlenet.tv",
        GoogLeNet,
        PAPER,
        settings={"release": "torchvision", "aux": True, "drop_rate": 0.2},
        departures=(
            Departure("batch norm in place of biases", "biases, no batch norm", "Fig. 3"),
            Departure("no local response normalisation", "after pool1 and conv2", "Fig. 3"),
            Departure("3x3 filters in the third branch", "5x5 filters", "Table 1"),
            Departure("2x2 max-pooling after 4e", "3x3", "Table 1"),
            Departure("dropout of 20 % before the classifier", "40 %", "Table 1"),
            Departure("auxiliary heads read means over a 4x4 grid", "means over 5x5, stride 3", "Sec. 5"),
        ),
        recipe=RECIPE,
        cannot=NO_BRANCH,
    ),
)
