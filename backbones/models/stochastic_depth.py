"""Stochastic depth (Huang, Sun, Liu, Sedra, Weinberger, 2016): train short networks, test the deep one.

Source: Sec. 3 and 4, and the authors' release. The law of survival and the scaling at test time are in
`layers.DropPath` and `resnet.Plan`, for every residual network; here are the networks that the paper trains.
"""

from dataclasses import replace
from typing import Any

from torch import nn

from backbones.backbone import Backbone
from backbones.layers import Head, he_init
from backbones.models.resnet import (
    CIFAR_CHANNELS,
    CIFAR_MAPS,
    CIFAR_RECIPE,
    MAPS,
    PER_CHANNEL,
    RECIPE,
    PaddedIdentity,
    Plan,
    ResidualBlock,
    ResNet,
    basic_branch,
    conv_norm,
)
from backbones.records import Paper, Recipe, Reported, Variant
from backbones.registry import register

PAPER = Paper(
    title="Deep Networks with Stochastic Depth",
    authors="Huang, Sun, Liu, Sedra, Weinberger",
    year=2016,
    venue="ECCV 2016",
    arxiv="1603.09382",
    builds_on=("resnet",),
)

DROPPED = 0.5  # 1 - p_L: block l of L survives with probability p_l = 1 - l / L * (1 - p_L), eq. 4


class PooledIdentity(PaddedIdentity):
    """Means of stride x stride values, zeros for new channels. (N, C, H, W) -> (N, C + extra, H/stride, W/stride)."""

    def __init__(self, extra: int, stride: int) -> None:
        super().__init__(extra, stride)
        self.subsample = nn.AvgPool2d(stride, ceil_mode=True)


class PooledPlan(Plan):
    """Basic blocks whose shortcuts have no parameters: where the size changes, they pool and pad."""

    def block(self, in_channels: int, out_channels: int, stride: int, drop_path_rate: float) -> nn.Module:
        shortcut = PooledIdentity(out_channels - in_channels, stride) if stride > 1 else nn.Identity()
        return ResidualBlock(basic_branch(in_channels, out_channels, stride), shortcut, drop_path_rate)


class CifarStochasticDepth(Backbone):
    """ResNet for 32x32 images, three stages of (depth - 2) / 6 basic blocks; block l drops out. `he_init`."""

    def __init__(
        self,
        depth: int,
        num_classes: int = 10,
        in_channels: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float = DROPPED,
    ) -> None:
        repeats, rest = divmod(depth - 2, 6)
        if rest or repeats < 1:
            raise ValueError(f"depth={depth}; give 6n + 2, such as 110, 152 or 1202")
        plan = PooledPlan((repeats,) * 3, CIFAR_CHANNELS, (1, 2, 2), False, "3x3", "A", drop_path_rate)
        super().__init__(
            stem=nn.Sequential(*conv_norm(in_channels, CIFAR_CHANNELS[0], 3), nn.ReLU()),
            stages=plan.stages(CIFAR_CHANNELS[0]),
            head=Head(CIFAR_CHANNELS[-1], num_classes, drop_rate=drop_rate),
            in_channels=in_channels,
            min_size=4,
            init=he_init,
        )


LONG_RECIPE = replace(
    CIFAR_RECIPE,
    source="Sec. 4",
    epochs=500,
    nesterov=True,
    milestones=(250 / 500, 375 / 500),
    deviations=(),
)
SVHN_RECIPE = replace(
    LONG_RECIPE,
    epochs=50,
    milestones=(30 / 50, 35 / 50),
    crop="centre",
    hflip=0.0,
)
DEEP_RECIPE = replace(
    LONG_RECIPE,
    epochs=300,
    milestones=(150 / 300, 225 / 300),
    warmup_epochs=10.0,
    warmup_rate=0.1,
    warmup_ramp=False,
)
IMAGENET_RECIPE = replace(
    RECIPE,
    source="Sec. 4",
    epochs=120,
    batch_size=128,
    nesterov=True,
    sched="step",
    milestones=(30 / 120, 60 / 120, 90 / 120),
    deviations=(PER_CHANNEL,),
    elsewhere=dict.fromkeys(("crop", "scale", "hflip", "lighting"), "1512.03385, ResNet's"),
)
BEST = "one view, at the epoch of the lowest validation error"


def top1(source: str, error: float, data: str, protocol: str = BEST) -> Reported:
    return Reported(source, top1=100 - error, data=data, protocol=protocol)


UNTOUCHED = f"{BEST}, trained without augmentation"
CIFAR_100 = (
    top1("Table 1", 24.98, "CIFAR-100 test"),
    top1("Table 1", 37.80, "CIFAR-100 test", UNTOUCHED),
)
WRONG = "10.2 M is what the pre-activation ResNet-1001 has; 1512.03385, Table 6 prints 19.4 M for these layers"
SIZE: dict[int, tuple[Reported, ...]] = {
    110: (Reported("1605.07146, Table 5", params=1.7e6),),
    1202: (
        Reported("1605.07146, Table 5", params=10.2e6, gap=WRONG),
        Reported("1512.03385, Table 6", params=19.4e6),
    ),
}
NETWORKS: dict[str, tuple[int, Recipe, tuple[Reported, ...]]] = {
    "resnet110_sd_cifar": (
        110,
        LONG_RECIPE,
        (
            *SIZE[110],
            top1("Table 1", 5.25, "CIFAR-10 test"),
            top1("Table 1", 11.66, "CIFAR-10 test", UNTOUCHED),
            *CIFAR_100,
        ),
    ),
    "resnet1202_sd_cifar": (1202, DEEP_RECIPE, (*SIZE[1202], top1("Sec. 4", 4.91, "CIFAR-10 test"))),
    "resnet152_sd_svhn": (152, SVHN_RECIPE, (top1("Table 1", 1.75, "SVHN test"),)),
}
SHAPE: dict[str, Any] = {"input_size": (3, 32, 32), "crop": 1.0, "num_classes": 10}
for name, (depth, recipe, claims) in NETWORKS.items():
    settings = {"depth": depth, "drop_path_rate": DROPPED}
    register(
        Variant(name, CifarStochasticDepth, PAPER, settings, (CIFAR_MAPS, *claims), recipe=recipe, **SHAPE),
    )
register(
    Variant(
        "resnet152_sd",
        ResNet,
        PAPER,
        {"depth": 152, "shortcut": "B", "drop_path_rate": DROPPED},
        (
            MAPS,
            Reported("Sec. 4", top1=100 - 23.38, protocol="one crop, trained for 90 epochs"),
            Reported("Table 1", top1=100 - 21.98, protocol="one crop, trained for 120 epochs"),
        ),
        recipe=IMAGENET_RECIPE,
    )
)
