"""Wide ResNet (Zagoruyko, Komodakis, 2016): fewer blocks, each of them wider.

Source: Tables 1, 4 to 9, and the authors' release where the paper is silent.
"""

from collections.abc import Mapping
from typing import Any, Literal

from torch import nn

from backbones.backbone import Backbone
from backbones.layers import Head, Init
from backbones.models.preact_resnet import PreActPlan, PreActUnit, conv
from backbones.models.resnet import (
    BOTTLENECK_FROM,
    CHANNELS,
    CIFAR_CHANNELS,
    CIFAR_MAPS,
    EXPANSION,
    MAPS,
    TABLE_1,
    Plan,
    conv_norm,
)
from backbones.records import Departure, Paper, Recipe, Reported, Variant
from backbones.registry import register

PAPER = Paper(
    title="Wide Residual Networks",
    authors="Zagoruyko, Komodakis",
    year=2016,
    venue="BMVC 2016",
    arxiv="1605.07146",
    builds_on=("preact_resnet", "resnet"),
)

# Table 1, for WRN-d-k: conv1 has 16 channels; conv2 to conv4 have 16k, 32k and 64k, and N = (d - 4) / 6 blocks B(3,3).
# WRN-18 and 34 are ResNet with k times the channels in every block, WRN-50-2-bottleneck with twice those of the 3x3.


def release_init(fan: Literal["fan_in", "fan_out"]) -> Init:
    """He's rule with the authors' fan; the classifier is Torch's, U(+-1 / sqrt(fan_in)); biases are 0.

    The paper does not say; its release draws N(0, 2 / fan_out) on CIFAR and N(0, 2 / fan_in) on ImageNet.
    """

    def init(module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode=fan, nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            bound = module.in_features**-0.5
            nn.init.uniform_(module.weight, -bound, bound)
            nn.init.zeros_(module.bias)

    return init


class CifarWideResNet(Backbone):
    """WRN-depth-width for 32x32 images. `drop_rate` is the dropout inside of each block (Sec. 2.4). `release_init`."""

    def __init__(
        self,
        depth: int,
        width: float,
        num_classes: int = 10,
        in_channels: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        repeats, rest = divmod(depth - 4, 6)
        if rest or repeats < 1:
            raise ValueError(f"depth={depth}; give 6n + 4, such as 16, 22, 28 or 40")
        channels = widened(CIFAR_CHANNELS, width)
        stages = PreActPlan((repeats,) * 3, channels, (1, 2, 2), False, "3x3", "B", drop_path_rate).stages(16)
        for unit in (m for stage in stages for m in stage if isinstance(m, PreActUnit)):
            unit.branch.insert(-1, nn.Dropout(drop_rate))
        super().__init__(
            stem=conv(in_channels, 16, 3),
            stages=stages,
            head=Head(channels[-1], num_classes),
            in_channels=in_channels,
            min_size=4,
            init=release_init("fan_out"),
        )


class WideResNet(Backbone):
    """WRN-depth-width for 224x224 images: ResNet's blocks, from 50 layers on with wider 3x3 only. `release_init`."""

    def __init__(
        self,
        depth: int,
        width: float,
        num_classes: int = 1000,
        in_channels: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        if depth not in TABLE_1:
            raise ValueError(f"depth={depth}; give one of {list(TABLE_1)}")
        wide, bottleneck = widened(CHANNELS, width), depth >= BOTTLENECK_FROM
        channels = tuple(c * EXPANSION for c in CHANNELS) if bottleneck else wide
        plan = Plan(TABLE_1[depth], channels, (1, 2, 2, 2), bottleneck, "3x3", "B", drop_path_rate, group_width=wide[0])
        stages = plan.stages(64)
        stages[0].insert(0, nn.MaxPool2d(3, 2, 1))
        super().__init__(
            stem=nn.Sequential(*conv_norm(in_channels, 64, 7, 2), nn.ReLU()),
            stages=stages,
            head=Head(channels[-1], num_classes, drop_rate=drop_rate),
            in_channels=in_channels,
            min_size=32,
            init=release_init("fan_in"),
        )


def widened(channels: tuple[int, ...], width: float) -> tuple[int, ...]:
    """The channels times k."""
    if not all(c * width >= 1 and c * width == int(c * width) for c in channels):
        raise ValueError(f"width={width}; give a factor that makes {channels} whole numbers, such as 1, 1.5, 2 or 10")
    return tuple(int(c * width) for c in channels)


CIFAR_RECIPE = Recipe(
    source="Sec. 3",
    epochs=200,
    batch_size=128,
    lr=0.1,
    momentum=0.9,
    nesterov=True,
    weight_decay=0.0005,
    sched="step",
    milestones=(60 / 200, 120 / 200, 160 / 200),
    decay_rate=0.2,
    crop="pad",
    crop_pad=4,
    pad_mode="reflect",
    hflip=0.5,
)
RECIPE = Recipe(
    source="the recipe of fb.resnet.torch, which the authors' code continues",
    epochs=90,
    batch_size=256,
    lr=0.1,
    momentum=0.9,
    nesterov=True,
    weight_decay=0.0001,
    sched="step",
    milestones=(30 / 90, 60 / 90),
    decay_rate=0.1,
    crop="area",
    scale=(0.08, 1.0),
    hflip=0.5,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    lighting=0.1,
    deviations=("changed colours are clipped at black and white, which the Torch code they are from does not do",),
)
PLAIN, ZCA, SINGLE = "one view, median of 5 runs", "one view of ZCA-whitened images", "one view, single run"
DROPOUT, SVHN_DROPOUT = "dropout 0.3 in every block", "dropout 0.4 in every block"
SETS = ("CIFAR-10 test", "CIFAR-100 test", "SVHN test")


def errors(source: str, protocol: str, *top1: float | None) -> tuple[Reported, ...]:
    """Errors in percent on CIFAR-10, CIFAR-100 and SVHN, as one row of a table prints them."""
    return tuple(
        Reported(source, top1=100 - error, data=data, protocol=protocol)
        for data, error in zip(SETS, top1, strict=False)
        if error is not None
    )


PARAMS = {  # depth, k -> parameters in Table 4 (WRN-40-10: Table 9)
    (40, 1): 0.6e6,
    (40, 2): 2.2e6,
    (40, 4): 8.9e6,
    (40, 8): 35.7e6,
    (40, 10): 56e6,
    (28, 10): 36.5e6,
    (28, 12): 52.5e6,
    (22, 8): 17.2e6,
    (22, 10): 26.8e6,
    (16, 8): 11.0e6,
    (16, 10): 17.1e6,
    (16, 4): None,
    (52, 1): None,
}
ERRORS: Mapping[tuple[int, int], tuple[Reported, ...]] = {
    (40, 1): errors("Table 4", ZCA, 6.85, 30.89),
    (40, 2): errors("Table 4", ZCA, 5.33, 26.04),
    (40, 4): (*errors("Table 4", ZCA, 4.97, 22.89), *errors("Table 5", PLAIN, 4.53, 21.18)),
    (40, 8): errors("Table 4", ZCA, 4.66),
    (40, 10): errors("Table 9", f"{SINGLE}, {DROPOUT}", 3.8, 18.3),
    (28, 10): (
        *errors("Table 4", ZCA, 4.17, 20.5),
        *errors("Table 5", PLAIN, 4.0, 19.25),
        *errors("Table 6", f"{PLAIN}, {DROPOUT}", 3.89, 18.85),
    ),
    (28, 12): errors("Table 4", ZCA, 4.33, 20.43),
    (22, 8): errors("Table 4", ZCA, 4.38, 21.22),
    (22, 10): errors("Table 4", ZCA, 4.44, 20.75),
    (16, 8): (
        *errors("Table 4", ZCA, 4.81, 22.07),
        *errors("Table 5", PLAIN, 4.27, 20.43),
        *errors("Table 9", f"{SINGLE}, {SVHN_DROPOUT}", None, None, 1.54),
    ),
    (16, 10): errors("Table 4", ZCA, 4.56, 21.59),
    (16, 4): (
        *errors("Table 6", PLAIN, 5.02, 24.03, 1.85),
        *errors("Table 6", f"{PLAIN}, {DROPOUT}", 5.24, 23.91),
        *errors("Table 6", f"{PLAIN}, {SVHN_DROPOUT}", None, None, 1.64),
    ),
    (52, 1): (
        *errors("Table 6", PLAIN, 6.43, 29.89, 2.08),
        *errors("Table 6", f"{PLAIN}, {DROPOUT}", 6.28, 29.78),
        *errors("Table 6", f"{PLAIN}, {SVHN_DROPOUT}", None, None, 1.7),
    ),
}
ONE_DIGIT = "0.56 M, which the table rounds to one digit"

for (depth, width), params in PARAMS.items():
    table = "Table 9" if (depth, width) == (40, 10) else "Table 4"
    size = Reported(table, params=params, gap=ONE_DIGIT if params == 0.6e6 else "")
    register(
        Variant(
            f"wrn_{depth}_{width}",
            CifarWideResNet,
            PAPER,
            {"depth": depth, "width": width, **({"drop_rate": 0.3} if (depth, width) == (40, 10) else {})},
            (CIFAR_MAPS, *([size] if params else []), *ERRORS[depth, width]),
            recipe=CIFAR_RECIPE,
            input_size=(3, 32, 32),
            crop=1.0,
            num_classes=10,
        )
    )


def one_crop(source: str, params: float, top1: float, top5: float) -> Reported:
    return Reported(source, params, top1=100 - top1, top5=100 - top5, protocol="one crop")


IMAGENET: Mapping[str, tuple[int, float, tuple[Reported, ...]]] = {
    "wrn_18_x1_5": (18, 1.5, (one_crop("Table 7", 25.9e6, 27.06, 9.0),)),
    "wrn_18_x2": (18, 2.0, (one_crop("Table 7", 45.6e6, 25.58, 8.06),)),
    "wrn_18_x3": (18, 3.0, (one_crop("Table 7", 101.8e6, 24.06, 7.33),)),
    "wrn_34_x1_5": (34, 1.5, (one_crop("Table 7", 48.6e6, 24.5, 7.58),)),
    "wrn_34_x2": (34, 2.0, (one_crop("Table 7", 86.0e6, 23.39, 7.0),)),
    "wide_resnet50_2": (50, 2.0, (one_crop("Table 8", 68.9e6, 21.9, 6.03), one_crop("Table 9", 68.9e6, 21.9, 5.79))),
}
for name, (depth, factor, claims) in IMAGENET.items():
    settings: dict[str, Any] = {"depth": depth, "width": factor}
    register(Variant(name, WideResNet, PAPER, settings, (MAPS, *claims), recipe=RECIPE))
register(
    Variant(
        "wide_resnet101_2.tv",
        WideResNet,
        PAPER,
        {"depth": 101, "width": 2.0},
        departures=(Departure("101 layers", "wider bottlenecks with 50 layers only", "Table 8"),),
        aliases=("wide_resnet101_2",),
    )
)
