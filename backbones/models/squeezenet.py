"""SqueezeNet (Iandola et al., 2016): squeeze the channels before they meet a 3x3 filter. Source: Table 1 and Fig. 2."""

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from backbones.backbone import Backbone
from backbones.layers import DropPath, Head
from backbones.records import NO_BRANCH, Paper, Recipe, Reported, Variant
from backbones.registry import register

PAPER = Paper(
    title="SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size",
    authors="Iandola, Han, Moskewicz, Ashraf, Dally, Keutzer",
    year=2016,
    venue="arXiv",
    arxiv="1602.07360",
    builds_on=("alexnet", "resnet"),
)


class Row(NamedTuple):
    """One fire module of Table 1, in the paper's letters."""

    s1x1: int  # filters of the squeeze layer
    e1x1: int  # 1x1 filters of the expand layer
    e3x3: int  # 3x3 filters of the expand layer


TABLE_1 = {  # number of the fire module, which is also its place in the network
    2: Row(16, 64, 64),
    3: Row(16, 64, 64),
    4: Row(32, 128, 128),
    5: Row(32, 128, 128),
    6: Row(48, 192, 192),
    7: Row(48, 192, 192),
    8: Row(64, 256, 256),
    9: Row(64, 256, 256),
}
CONV1 = {"1.0": (96, 7), "1.1": (64, 3)}  # channels and kernel; the README of v1.1 says what changed
POOLS = {"1.0": (1, 4, 8), "1.1": (1, 3, 5)}  # a 3x3 max-pooling of stride 2 follows these layers
MIN_SIZE = {"1.0": 21, "1.1": 17}

Version = Literal["1.0", "1.1"]
Bypass = Literal["none", "simple", "complex"]


class Fire(nn.Module):
    """relu([expand1x1(s), expand3x3(s)]) of s = relu(squeeze(x)) (Fig. 1). (N, C, H, W) -> (N, e1x1 + e3x3, H, W)."""

    def __init__(self, in_channels: int, row: Row) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(in_channels, row.s1x1, 1)
        self.expand1x1 = nn.Conv2d(row.s1x1, row.e1x1, 1)
        self.expand3x3 = nn.Conv2d(row.s1x1, row.e3x3, 3, padding=1)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        squeezed = self.relu(self.squeeze(x))
        return self.relu(torch.cat([self.expand1x1(squeezed), self.expand3x3(squeezed)], 1))


class BypassedFire(nn.Module):
    """shortcut(x) + fire(x) (Fig. 2); no ReLU follows the sum. (N, C, H, W) -> what the fire module makes of it."""

    def __init__(self, fire: Fire, shortcut: nn.Module, drop_path_rate: float) -> None:
        super().__init__()
        self.fire, self.shortcut = fire, shortcut
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.drop_path(self.fire, x)


class ClassMaps(nn.Conv2d):
    """conv10: one map for each class. (N, in_channels, H, W) -> (N, num_classes, H, W)."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__(in_channels, num_classes, 1)


class MapHead(Head):
    """pool(relu(classifier(dropout(x)))). (N, C, H, W) -> (N, num_classes); 0 classes return pool(dropout(x))."""

    pools_first = False

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        if not self.pool:
            return x
        x = self.dropout(x)
        if self.num_classes and not pre_logits:
            x = self.classifier(x).relu()
        return self._pooled(x).flatten(1)


def xavier_init(module: nn.Module) -> None:
    """Caffe's "xavier": uniform weights of variance 1 / fan_in; conv10 N(0, 0.01^2); biases 0.

    The paper is silent and refers to its release, whose train_val.prototxt prints both.
    """
    if isinstance(module, ClassMaps):
        nn.init.normal_(module.weight, std=0.01)
    elif isinstance(module, nn.Conv2d):
        nn.init.kaiming_uniform_(module.weight, nonlinearity="linear")
    if isinstance(module, nn.Conv2d) and module.bias is not None:
        nn.init.zeros_(module.bias)


class SqueezeNet(Backbone):
    """SqueezeNet, 227x227 images. conv1 is the stem, a stage begins with its max-pooling, conv10 classifies each place.

    Table 1 prints images of 224, which cannot give its first map of 111; the authors' release crops 227.

    `bypass` is a column of Fig. 2: "simple" adds identities around the fire modules that keep their channels,
    "complex" also 1x1 convolutions around the others. Poolings cover the far edge, as Caffe's do. `xavier_init`.
    """

    def __init__(
        self,
        version: Version = "1.0",
        bypass: Bypass = "none",
        num_classes: int = 1000,
        in_channels: int = 3,
        drop_rate: float = 0.5,
        drop_path_rate: float = 0.0,
    ) -> None:
        if version not in get_args(Version) or bypass not in get_args(Bypass):
            raise ValueError(
                f"version={version!r}, bypass={bypass!r}; versions are {', '.join(get_args(Version))}, "
                f"bypasses {', '.join(get_args(Bypass))}"
            )
        channels, kernel_size = CONV1[version]
        stem = nn.Sequential(nn.Conv2d(in_channels, channels, kernel_size, stride=2), nn.ReLU())
        stages: list[nn.Sequential] = []
        for place, (number, row) in enumerate(TABLE_1.items(), start=1):
            if number - 1 in POOLS[version]:
                stages.append(nn.Sequential(nn.MaxPool2d(3, 2, ceil_mode=True)))
            fire, out_channels = Fire(channels, row), row.e1x1 + row.e3x3
            rate = drop_path_rate * place / len(TABLE_1)
            if bypass != "none" and channels == out_channels:
                stages[-1].append(BypassedFire(fire, nn.Identity(), rate))
            elif bypass == "complex":
                stages[-1].append(BypassedFire(fire, nn.Conv2d(channels, out_channels, 1), rate))
            else:
                stages[-1].append(fire)
            channels = out_channels
        super().__init__(
            stem=stem,
            stages=stages,
            head=MapHead(channels, num_classes, classifier=ClassMaps, drop_rate=drop_rate),
            in_channels=in_channels,
            min_size=MIN_SIZE[version],
            init=xavier_init,
        )


RECIPE = Recipe(
    source="Sec. 3.3 and the authors' solver.prototxt",
    epochs=68,  # 170k iterations of 512 images
    batch_size=512,
    lr=0.04,
    momentum=0.9,
    weight_decay=0.0002,
    sched="linear",
    crop="side",
    scale=(256 / 227, 256 / 227),
    crop_from="squashed",
    deviations=("the mean and deviation of each channel in place of the mean colour",),
    elsewhere=dict.fromkeys(("scale", "crop_from"), "Caffe, whose images of ImageNet are 256 by 256"),
)
PADDED = "the release pads conv10 by 1, so that it computes 15x15 values, where Table 1 prints 13x13: 833 M without"
TWICE = "1.7 G are floating-point operations, which are twice the multiply-adds"
README = "authors' README of v1.1"


def size(megabytes: float, gap: str = "") -> Reported:
    """Table 3 prints megabytes of 2^20 bytes, four for each parameter."""
    return Reported("Table 3", params=megabytes * 2**20 / 4, gap=gap)


def accuracy(table: int, top1: float, top5: float) -> Reported:
    return Reported(f"Table {table}", top1=top1, top5=top5, protocol="one crop")


NETWORKS: dict[str, tuple[Version, Bypass, tuple[Reported, ...]]] = {  # name -> version, bypass, what is printed of it
    "squeezenet1_0": (
        "1.0",
        "none",
        (
            Reported("Table 1", params=1_248_424, maps=(55, 27, 13)),
            size(4.8),
            accuracy(2, 57.5, 80.3),
            Reported(README, madds=1.72e9 / 2, gap=PADDED),
            Reported("1707.01083, Table 6", madds=833e6),
            Reported("1704.04861, Table 9", params=1.25e6, madds=1.7e9, gap=TWICE),
        ),
    ),
    "squeezenet1_1": (
        "1.1",
        "none",
        (
            Reported(README, madds=0.72e9 / 2, gap="388 M by count at 227 pixels, 349 M at 224; cause unknown"),
            Reported(README, top5=80.3, protocol="one crop; at least this"),
        ),
    ),
    "squeezenet1_0_simple_bypass": ("1.0", "simple", (size(4.8), accuracy(3, 60.4, 82.5))),
    "squeezenet1_0_complex_bypass": (
        "1.0",
        "complex",
        (
            size(7.7, gap="6.1 MB with 1x1 convolutions around fire2, 4, 6 and 8, as Fig. 2 draws; cause unknown"),
            accuracy(3, 58.8, 82.0),
        ),
    ),
}

for name, (version, bypass, claims) in NETWORKS.items():
    register(
        Variant(
            name,
            SqueezeNet,
            PAPER,
            {"version": version, "bypass": bypass},
            reported=claims,
            recipe=RECIPE if version == "1.0" else None,  # the release has no solver for v1.1
            input_size=(3, 227, 227),
            crop=227 / 256,
            cannot=NO_BRANCH if bypass == "none" else {},
        )
    )
