"""EfficientNet (Tan, Le, 2019): one network, searched, then made wider, deeper and finer together. Source: Table 1."""

import math
from dataclasses import replace
from typing import Any, NamedTuple

from torch import nn

from backbones.backbone import Backbone
from backbones.layers import DropPath, Head
from backbones.models.mobilenet_v2 import SYMMETRIC, InvertedResidual, Padding, Style, make_divisible
from backbones.models.senet import SqueezeExcite
from backbones.records import Departure, Paper, Recipe, Reported, Variant
from backbones.registry import register

PAPER = Paper(
    title="EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks",
    authors="Tan, Le",
    year=2019,
    venue="ICML 2019",
    arxiv="1905.11946",
    builds_on=("mobilenet_v2", "senet"),
)


class Row(NamedTuple):
    """One stage of Table 1, all of MBConv blocks."""

    expansion: int  # the number in MBConv1, MBConv6
    kernel_size: int
    channels: int
    layers: int
    stride: int  # of the first block; the table prints the sides of the maps instead


TABLE_1 = (  # stages 2 to 8
    Row(expansion=1, kernel_size=3, channels=16, layers=1, stride=1),
    Row(expansion=6, kernel_size=3, channels=24, layers=2, stride=2),
    Row(expansion=6, kernel_size=5, channels=40, layers=2, stride=2),
    Row(expansion=6, kernel_size=3, channels=80, layers=3, stride=2),
    Row(expansion=6, kernel_size=5, channels=112, layers=3, stride=1),
    Row(expansion=6, kernel_size=5, channels=192, layers=4, stride=2),
    Row(expansion=6, kernel_size=3, channels=320, layers=1, stride=1),
)
FIRST, LAST = 32, 1280  # channels of stages 1 and 9: a 3x3 convolution with stride 2, and a 1x1 convolution
SQUEEZE = 0.25  # channels of the gate over those that enter the block


class Size(NamedTuple):
    """How much of everything (Sec. 3.3): width beta^phi, depth alpha^phi and sides gamma^phi times those of B0."""

    width: float  # beta = 1.1
    depth: float  # alpha = 1.2
    side: int  # gamma = 1.15
    drop_rate: float


SIZES = (  # B0 to B7, as released: phi = 0, 1/2, 1 and 2, rounded; from B4 on more than the powers of 3, 4, 5 and 6
    Size(width=1.0, depth=1.0, side=224, drop_rate=0.2),
    Size(width=1.0, depth=1.1, side=240, drop_rate=0.2),
    Size(width=1.1, depth=1.2, side=260, drop_rate=0.3),
    Size(width=1.2, depth=1.4, side=300, drop_rate=0.3),
    Size(width=1.4, depth=1.8, side=380, drop_rate=0.4),
    Size(width=1.6, depth=2.2, side=456, drop_rate=0.4),
    Size(width=1.8, depth=2.6, side=528, drop_rate=0.5),
    Size(width=2.0, depth=3.1, side=600, drop_rate=0.5),
)


def mbconv(
    in_channels: int, out_channels: int, kernel_size: int, stride: int, expansion: int, style: Style
) -> nn.Sequential:
    """narrow(gate(filter(widen(x)))). (N, in_channels, H, W) -> (N, out_channels, H/stride, W/stride)."""
    wide = expansion * in_channels
    return nn.Sequential(
        *(style.active(in_channels, wide) if expansion > 1 else ()),
        *style.active(wide, wide, kernel_size, stride, groups=wide),
        SqueezeExcite(wide, max(1, int(SQUEEZE * in_channels)), activation=nn.SiLU),
        *style.linear(wide, out_channels),
    )


def fan_out_init(module: nn.Module) -> None:
    """The authors' release; the paper is silent. Convolutions N(0, 2 / (k k filters)), where the filters of a depthwise
    one count per input channel; the classifier uniform within +-1 / sqrt(num_classes); biases 0."""
    if isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
    elif isinstance(module, nn.Linear):
        bound = 1 / math.sqrt(module.out_features)
        nn.init.uniform_(module.weight, -bound, bound)
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


class EfficientNet(Backbone):
    """EfficientNet; `width` multiplies the channels, `depth` the blocks. `fan_out_init`.

    Block i of L, counted from 0, is dropped with probability i / L * drop_path_rate, for each image apart. That, the
    rounding of channels and blocks, the padding and batch norm's eps are those of the authors' release.
    """

    def __init__(
        self,
        width: float = 1.0,
        depth: float = 1.0,
        padding: Padding = "same",
        eps: float = 1e-3,
        momentum: float = 0.01,
        num_classes: int = 1000,
        in_channels: int = 3,
        drop_rate: float = 0.2,
        drop_path_rate: float = 0.2,
    ) -> None:
        if width <= 0 or depth <= 0:
            raise ValueError(f"width={width}, depth={depth}; give multipliers above 0, such as 1.0 to 2.0")
        style = Style(padding, eps, momentum, nn.SiLU)
        channels, last = make_divisible(FIRST * width), make_divisible(LAST * width)
        stem = nn.Sequential(*style.active(in_channels, channels, 3, stride=2))
        layers = [math.ceil(depth * row.layers) for row in TABLE_1]
        stages, index = list[nn.Sequential](), 0
        for row, repeats in zip(TABLE_1, layers, strict=True):
            if row.stride > 1 or not stages:
                stages.append(nn.Sequential())
            out_channels = make_divisible(row.channels * width)
            for i in range(repeats):
                stride = row.stride if i == 0 else 1
                branch = mbconv(channels, out_channels, row.kernel_size, stride, row.expansion, style)
                drop_path = DropPath(drop_path_rate * index / sum(layers), "row")
                stages[-1].append(InvertedResidual(branch, stride == 1 and channels == out_channels, drop_path))
                channels, index = out_channels, index + 1
        stages[-1].append(nn.Sequential(*style.active(channels, last)))
        super().__init__(
            stem=stem,
            stages=stages,
            head=Head(last, num_classes, drop_rate=drop_rate),
            in_channels=in_channels,
            min_size=32,
            init=fan_out_init,
        )


RELEASE = "authors' release, tensorflow/tpu"
RECIPE = Recipe(
    source="Sec. 5.2",
    epochs=350,
    batch_size=4096,
    lr=0.256,  # 0.016 for 256 images
    opt="rmsprop",
    alpha=0.9,
    eps=0.001,
    momentum=0.9,
    weight_decay=1e-5,
    decay_norm=False,
    sched="exponential",
    decay_rate=0.97,
    decay_epochs=2.4,
    warmup_epochs=5.0,
    smoothing=0.1,
    model_ema=True,
    model_ema_decay=0.9999,
    crop="area",
    scale=(0.08, 1.0),
    hflip=0.5,
    auto_augment="autoaugment",
    bn_momentum=0.01,
    deviations=("the best epoch on the validation part is kept; the paper's is 25,000 images set aside (--val-split)",),
    elsewhere=dict.fromkeys(
        (
            *("epochs", "batch_size", "eps", "warmup_epochs", "smoothing", "model_ema", "model_ema_decay"),
            *("crop", "scale", "hflip", "decay_norm"),
        ),
        "the authors' release",
    ),
)
SAME_EACH_SIDE = replace(SYMMETRIC, section=RELEASE)
TORCH_NORM = Departure(
    "batch norm with eps 1e-5 and momentum 0.1",
    "momentum 0.99, which is 0.01 here; eps is 1e-3 in the release",
    "Sec. 5.2",
)
TORCH_NORM_UP_TO = 4  # B5 to B7 have the release's in torchvision
EARLIER, LATEST = "one view; first version of the paper", "one view; latest version of the paper, early stopping"
TABLE_2 = (  # params, madds, top-1 and top-5 errors of the first version and of the latest
    (5.3e6, 0.39e9, (23.7, 6.8), (22.9, 6.7)),
    (7.8e6, 0.70e9, (21.2, 5.6), (20.9, 5.6)),
    (9.2e6, 1.0e9, (20.2, 5.1), (19.9, 5.1)),
    (12e6, 1.8e9, (18.9, 4.5), (18.4, 4.3)),
    (19e6, 4.2e9, (17.4, 3.7), (17.1, 3.6)),
    (30e6, 9.9e9, (16.7, 3.3), (16.4, 3.3)),
    (43e6, 19e9, (16.0, 3.1), (16.0, 3.2)),
    (66e6, 37e9, (15.6, 2.9), (15.7, 3.0)),
)
GAPS = {
    4: "4.39 G multiply-adds counted at the released 380 pixels; the paper does not print its sides",
    5: "10.27 G multiply-adds counted at the released 456 pixels; the paper does not print its sides",
    7: "37.7 G multiply-adds counted; the table cuts the decimal off",
}
B0 = Reported("Table 1", maps=(112, 56, 28, 14, 7))

for number, (size, (params, madds, earlier, latest)) in enumerate(zip(SIZES, TABLE_2, strict=True)):
    name, gap = f"efficientnet_b{number}", GAPS.get(number, "")
    torch_norm = number <= TORCH_NORM_UP_TO
    settings = {"width": size.width, "depth": size.depth, "drop_rate": size.drop_rate}
    twin = {"padding": "symmetric", **({"eps": 1e-5, "momentum": 0.1} if torch_norm else {})}
    shape: dict[str, Any] = {"input_size": (3, size.side, size.side), "crop": size.side / (size.side + 32)}
    errors = [
        Reported("Table 2", top1=100 - top1, top5=100 - top5, protocol=how)
        for how, (top1, top5) in ((LATEST, latest), (EARLIER, earlier))
    ]
    claims = (Reported("Table 2", params, madds, gap=gap), *((B0,) if number == 0 else ()), *errors)
    aliases = (f"tf_{name}", f"{name}.tf")
    register(
        Variant(name, EfficientNet, PAPER, settings, claims, recipe=RECIPE, aliases=aliases, **shape),
        Variant(
            f"{name}.tv",
            EfficientNet,
            PAPER,
            {**settings, **twin},
            departures=(SAME_EACH_SIDE, TORCH_NORM) if torch_norm else (SAME_EACH_SIDE,),
            recipe=RECIPE,
            **shape,
        ),
    )
