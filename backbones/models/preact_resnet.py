"""Pre-activation ResNet (He, Zhang, Ren, Sun, 2016): norm and ReLU move from the shortcuts' way into the branches.

Source: Fig. 1(b), Sec. 4 and 5, the Appendix, and the authors' release where those are silent.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, get_args

from torch import Tensor, nn

from backbones.backbone import Backbone
from backbones.layers import DropPath, Head, he_init
from backbones.models.resnet import (
    BOTTLENECK_FROM,
    CHANNELS,
    CIFAR_CHANNELS,
    CIFAR_MAPS,
    EXPANSION,
    MAPS,
    PER_CHANNEL,
    RECIPE,
    STRIDE_IN_3X3,
    TABLE_1,
    Plan,
    conv_norm,
    make_shortcut,
)
from backbones.models.resnet import WARM_RECIPE as RESNET_WARM_RECIPE
from backbones.records import Departure, Paper, Reported, Variant
from backbones.registry import register

PAPER = Paper(
    title="Identity Mappings in Deep Residual Networks",
    authors="He, Zhang, Ren, Sun",
    year=2016,
    venue="ECCV 2016",
    arxiv="1603.05027",
    builds_on=("resnet",),
)

BLOCKS = TABLE_1 | {200: (3, 24, 36, 3)}  # Sec. 5: ResNet-152 and 16 more units on the 28x28 maps
CIFAR_LAYERS = {False: 2, True: 3}  # bottleneck? -> layers per unit: depth 6n + 2 or 9n + 2

Unit = Literal["original", "pre-activation"]
UNITS = get_args(Unit)
Release = Literal["paper", "keras"]
RELEASES = get_args(Release)


def conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    """Keeps the map's size up to its stride."""
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=bias)


def norm_relu(channels: int) -> list[nn.Module]:
    """What precedes each convolution of a branch."""
    return [nn.BatchNorm2d(channels), nn.ReLU()]


class PreActUnit(nn.Module):
    """shortcut(x) + branch(activation(x)), eq. 4 and 5: nothing after the sum. (N, C, H, W) -> the branch's shape.

    Where the shortcut is a projection, it reads the activated map too (the authors' release); elsewhere the
    activation belongs to the branch, and goes with it when stochastic depth drops that.
    """

    def __init__(
        self, activation: list[nn.Module], branch: list[nn.Module], shortcut: nn.Module, drop_path_rate: float
    ) -> None:
        super().__init__()
        shared = not isinstance(shortcut, nn.Identity | nn.MaxPool2d)
        self.activation = nn.Sequential(*activation if shared else ())
        self.branch = nn.Sequential(*() if shared else activation, *branch)
        self.shortcut = shortcut
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(x)
        return self.shortcut(x) + self.drop_path(self.branch, x)


class PreActPlan(Plan):
    """ResNet's plan with pre-activation units; projections (option B) have no norm."""

    def stages(self, in_channels: int, activated: bool = False) -> list[nn.Sequential]:
        """The last unit is followed by an activation; the first has none where the stem has `activated` (Appendix)."""
        stages = self.rows(in_channels)
        if activated:
            rate = self.drop_path_rate / sum(self.blocks)
            stages[0][0] = self.unit([], in_channels, self.channels[0], self.strides[0], rate)
        stages[-1].extend(norm_relu(self.channels[-1]))
        return stages

    def rows(self, in_channels: int) -> list[nn.Sequential]:
        return super().stages(in_channels)

    def block(self, in_channels: int, out_channels: int, stride: int, drop_path_rate: float) -> nn.Module:
        return self.unit(norm_relu(in_channels), in_channels, out_channels, stride, drop_path_rate)

    def unit(
        self, activation: list[nn.Module], in_channels: int, out_channels: int, stride: int, drop_path_rate: float
    ) -> PreActUnit:
        shortcut = self.way_past(in_channels, out_channels, stride)
        return PreActUnit(activation, self.branch(in_channels, out_channels, stride), shortcut, drop_path_rate)

    def way_past(self, in_channels: int, out_channels: int, stride: int) -> nn.Module:
        if self.shortcut == "B" and (stride > 1 or in_channels != out_channels):
            return conv(in_channels, out_channels, 1, stride)
        return make_shortcut("A", in_channels, out_channels, stride)

    def branch(self, in_channels: int, out_channels: int, stride: int) -> list[nn.Module]:
        """3x3, 3x3 or 1x1, 3x3, 1x1; the first activation is the unit's."""
        if not self.bottleneck:
            last = conv(out_channels, out_channels, 3)
            return [conv(in_channels, out_channels, 3, stride), *norm_relu(out_channels), last]
        width = out_channels // EXPANSION
        first, second = (stride, 1) if self.stride_in == "1x1" else (1, stride)
        return [
            conv(in_channels, width, 1, first),
            *norm_relu(width),
            conv(width, width, 3, second),
            *norm_relu(width),
            conv(width, out_channels, 1),
        ]


class KerasPlan(PreActPlan):
    """Each row of units strides in its last unit, which takes every second value past its branch.

    Projections and the last convolution of a branch have biases.
    """

    def rows(self, in_channels: int) -> list[nn.Sequential]:
        """A unit that strides opens the next stage, so that the maps of a stage have one size."""
        stages, depth = [nn.Sequential()], 0
        for repeats, out_channels, last_stride in zip(self.blocks, self.channels, self.strides, strict=True):
            for i in range(1, repeats + 1):
                stride, depth = last_stride if i == repeats else 1, depth + 1
                if stride > 1:
                    stages.append(nn.Sequential())
                rate = self.drop_path_rate * depth / sum(self.blocks)
                stages[-1].append(self.block(in_channels, out_channels, stride, rate))
                in_channels = out_channels
        return stages

    def way_past(self, in_channels: int, out_channels: int, stride: int) -> nn.Module:
        if in_channels != out_channels:
            return conv(in_channels, out_channels, 1, stride, bias=True)
        return nn.MaxPool2d(1, stride) if stride > 1 else nn.Identity()

    def branch(self, in_channels: int, out_channels: int, stride: int) -> list[nn.Module]:
        *layers, last = super().branch(in_channels, out_channels, stride)
        assert isinstance(last, nn.Conv2d)
        return [*layers, conv(last.in_channels, out_channels, last.kernel_size[0], bias=True)]


class PreActResNet(Backbone):
    """Pre-activation ResNet for 224x224 images. `he_init` (Appendix).

    The first activation stands right after conv1 (Appendix), before the max-pooling that opens the first stage;
    without `norm_in_stem` it is the first unit's, after the pooling. `release` "keras" is that library's form, without
    a norm in the stem.
    """

    def __init__(
        self,
        depth: int,
        stride_in: Literal["1x1", "3x3"] = "1x1",
        norm_in_stem: bool = True,
        release: Release = "paper",
        num_classes: int = 1000,
        in_channels: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        if depth not in BLOCKS or stride_in not in ("1x1", "3x3"):
            raise ValueError(
                f"depth={depth}, stride_in={stride_in!r}; depths are {list(BLOCKS)}, strides in 1x1 or 3x3"
            )
        keras = release == "keras"
        if release not in RELEASES or (keras and norm_in_stem):
            raise ValueError(
                f"release={release!r}, norm_in_stem={norm_in_stem}; give paper, or keras without norm in the stem"
            )
        bottleneck = depth >= BOTTLENECK_FROM
        channels = tuple(c * EXPANSION if bottleneck else c for c in CHANNELS)
        kind, strides = (KerasPlan, (2, 2, 2, 1)) if keras else (PreActPlan, (1, 2, 2, 2))
        plan = kind(BLOCKS[depth], channels, strides, bottleneck, stride_in, "B", drop_path_rate)
        stages = plan.stages(64, activated=norm_in_stem)
        pooling = nn.Sequential(nn.ZeroPad2d(1), nn.MaxPool2d(3, 2)) if keras else nn.MaxPool2d(3, 2, 1)
        stages[0].insert(0, pooling)
        super().__init__(
            stem=nn.Sequential(conv(in_channels, 64, 7, 2, bias=keras), *norm_relu(64) if norm_in_stem else ()),
            stages=stages,
            head=Head(channels[-1], num_classes, drop_rate=drop_rate),
            in_channels=in_channels,
            min_size=32,
            init=he_init,
        )


class CifarPreActResNet(Backbone):
    """ResNet for 32x32 images, three stages of (depth - 2) / 6 basic units or (depth - 2) / 9 bottlenecks. `he_init`.

    `unit="original"` builds what the paper compares with: ResNet's own unit at the same depths (Table 3).
    """

    def __init__(
        self,
        depth: int,
        bottleneck: bool = True,
        shortcut: Literal["A", "B"] = "B",
        unit: Unit = "pre-activation",
        num_classes: int = 10,
        in_channels: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        layers = 3 * CIFAR_LAYERS[bottleneck]
        repeats, rest = divmod(depth - 2, layers)
        if rest or repeats < 1:
            raise ValueError(f"depth={depth}; give {layers}n + 2, such as {'164 or 1001' if bottleneck else 110}")
        if shortcut not in ("A", "B") or unit not in UNITS:
            raise ValueError(f"shortcut={shortcut!r}, unit={unit!r}; shortcuts are A or B, units {' or '.join(UNITS)}")
        channels = tuple(c * EXPANSION if bottleneck else c for c in CIFAR_CHANNELS)
        blocks, strides, first = (repeats,) * 3, (1, 2, 2), CIFAR_CHANNELS[0]
        kind = Plan if unit == "original" else PreActPlan
        plan = kind(blocks, channels, strides, bottleneck, "1x1", shortcut, drop_path_rate)
        super().__init__(
            stem=nn.Sequential(*conv_norm(in_channels, first, 3), nn.ReLU()),
            stages=plan.stages(first, activated=True) if isinstance(plan, PreActPlan) else plan.stages(first),
            head=Head(channels[-1], num_classes, drop_rate=drop_rate),
            in_channels=in_channels,
            min_size=4,
            init=he_init,
        )


IMAGENET_RECIPE = replace(
    RECIPE,
    source="Appendix",
    epochs=90,
    sched="step",
    milestones=(30 / 90, 60 / 90),
    deviations=(PER_CHANNEL, "the rate falls at 30 and 60 epochs as printed; that training ends after 90 is not"),
    elsewhere={
        "epochs": "this library",
        **dict.fromkeys(("crop", "scale", "hflip", "lighting"), "1512.03385, ResNet's"),
    },
)
WARM_RECIPE = replace(
    RESNET_WARM_RECIPE,
    source="Appendix",
    deviations=(PER_CHANNEL,),
    elsewhere=dict.fromkeys(("epochs", "sched", "milestones", "decay_rate", "crop_pad"), "1512.03385, ResNet's"),
)
IN_3X3 = replace(STRIDE_IN_3X3, section="1512.03385, Table 1")
POOL_FIRST = Departure(
    "max-pooling right after conv1, and the first activation in the first unit",
    "the first activation right after conv1",
    "Appendix",
)
STRIDE_LAST = (
    Departure(
        "the last unit of each row strides, and takes every second value past its branch",
        "the first, past a projection",
        "1512.03385, Table 1",
    ),
    Departure("zeros of the padding enter the max-pooling", "only values of the map do", "the authors' release"),
    Departure("biases in conv1, the projections and the last convolution of a branch", "none", "the authors' release"),
)
MEDIAN = "one view, median of 5 runs"


def cifar(table: str, error: float, data: str = "CIFAR-10 test", protocol: str = MEDIAN, **more: Any) -> Reported:
    return Reported(table, top1=100 - error, data=data, protocol=protocol, **more)


def crop_320(top1: float, top5: float, augmentation: str) -> Reported:
    protocol = f"one 320x320 crop, trained with {augmentation} augmentation"
    return Reported("Table 5", input_size=320, top1=100 - top1, top5=100 - top5, protocol=protocol)


ERRORS: Mapping[int, tuple[Reported, ...]] = {
    152: (crop_320(21.1, 5.5, "scale"),),
    200: (
        Reported("1605.07146, Table 8", params=64.7e6),
        crop_320(20.7, 5.3, "scale"),
        crop_320(20.1, 4.8, "scale and aspect ratio"),
    ),
}
for depth in BLOCKS:
    settings: dict[str, Any] = {"depth": depth}
    recipe = (
        IMAGENET_RECIPE if depth in ERRORS else None
    )  # the others are this paper's unit at its predecessor's depths
    claims = (MAPS, *ERRORS.get(depth, ()))
    register(Variant(f"preact_resnet{depth}", PreActResNet, PAPER, settings, claims, recipe=recipe))
    if depth <= 152:
        late = {"stride_in": "3x3"} if depth >= BOTTLENECK_FROM else {}
        register(
            Variant(
                f"preact_resnet{depth}.timm",
                PreActResNet,
                PAPER,
                {**settings, **late, "norm_in_stem": False},
                recipe=recipe,
                departures=(*([IN_3X3] if late else ()), POOL_FIRST),
                aliases=(f"resnetv2_{depth}",),
            )
        )
    if BOTTLENECK_FROM <= depth <= 152:
        register(
            Variant(
                f"preact_resnet{depth}.keras",
                PreActResNet,
                PAPER,
                {**settings, "stride_in": "3x3", "norm_in_stem": False, "release": "keras"},
                recipe=recipe,
                departures=(IN_3X3, POOL_FIRST, *STRIDE_LAST),
            )
        )

CIFAR_100 = "CIFAR-100 test"
CIFAR_NETWORKS: Mapping[str, tuple[dict[str, Any], tuple[Reported, ...]]] = {
    "preact_resnet110_cifar": (
        {"depth": 110, "bottleneck": False, "shortcut": "A"},
        (Reported("1605.07146, Table 5", params=1.7e6), cifar("Table 3", 6.37)),
    ),
    "preact_resnet164_cifar": (
        {"depth": 164},
        (cifar("Table 4", 5.46, params=1.7e6), cifar("Table 4", 24.33, CIFAR_100)),
    ),
    "preact_resnet1001_cifar": (
        {"depth": 1001},
        (
            cifar("Table 4", 4.92, params=10.2e6),
            cifar("Table 4", 4.62, protocol="one view, trained with batches of 64"),
            cifar("Table 4", 22.71, CIFAR_100),
        ),
    ),
    "resnet164_cifar": (
        {"depth": 164, "unit": "original"},
        (cifar("Table 3", 5.93), cifar("Table 3", 25.16, CIFAR_100)),
    ),
    "resnet1001_cifar": (
        {"depth": 1001, "unit": "original"},
        (cifar("Table 3", 7.61), cifar("Table 3", 27.82, CIFAR_100)),
    ),
}
for name, (settings, claims) in CIFAR_NETWORKS.items():
    register(
        Variant(
            name,
            CifarPreActResNet,
            PAPER,
            settings,
            (CIFAR_MAPS, *claims),
            recipe=WARM_RECIPE,
            input_size=(3, 32, 32),
            crop=1.0,
            num_classes=10,
        )
    )
