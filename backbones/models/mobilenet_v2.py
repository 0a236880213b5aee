"""MobileNetV2 (Sandler, Howard, Zhu, Zhmoginov, Chen, 2018): narrow maps travel, wide ones filter. Source: Table 2."""

from typing import Literal, NamedTuple, get_args

from torch import Tensor, nn

from backbones.backbone import Backbone
from backbones.layers import DropPath, Head, SamePad
from backbones.models.mobilenet_v1 import truncated_init
from backbones.records import ONE_WORKER, Departure, Paper, Recipe, Reported, Variant
from backbones.registry import register

PAPER = Paper(
    title="MobileNetV2: Inverted Residuals and Linear Bottlenecks",
    authors="Sandler, Howard, Zhu, Zhmoginov, Chen",
    year=2018,
    venue="CVPR 2018",
    arxiv="1801.04381",
    builds_on=("mobilenet_v1",),
)


class Row(NamedTuple):
    """One line of Table 2, in the paper's letters."""

    t: int  # expansion factor
    c: int  # output channels
    n: int  # how many times the block repeats
    s: int  # stride of the first one


TABLE_2 = (
    Row(t=1, c=16, n=1, s=1),
    Row(t=6, c=24, n=2, s=2),
    Row(t=6, c=32, n=3, s=2),
    Row(t=6, c=64, n=4, s=2),
    Row(t=6, c=96, n=3, s=1),
    Row(t=6, c=160, n=3, s=2),
    Row(t=6, c=320, n=1, s=1),
)
FIRST, LAST = 32, 1280  # channels of the convolutions around them: 3x3 with stride 2, and 1x1

Padding = Literal["same", "symmetric"]
PADDINGS = get_args(Padding)


def make_divisible(channels: float) -> int:
    """The nearest multiple of 8, but no less than 8 and no less than nine tenths of `channels`."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest


class Style(NamedTuple):
    """What all convolutions of one network have in common."""

    padding: Padding  # where one strides: the odd pixel at the far edge, as TensorFlow's SAME, or the same on each side
    eps: float  # of batch norm
    momentum: float  # of batch norm: share of the new batch in the running statistics
    activation: type[nn.Module]

    def linear(
        self, in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1, groups: int = 1
    ) -> list[nn.Module]:
        """norm(conv(x)). (N, in_channels, H, W) -> (N, out_channels, H/stride, W/stride)."""
        if self.padding not in PADDINGS:
            raise ValueError(f"padding={self.padding!r}; give one of {', '.join(PADDINGS)}")
        pads = self.padding == "same" and stride > 1  # at stride 1 the two are equal
        padding = 0 if pads else kernel_size // 2
        conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)
        norm = nn.BatchNorm2d(out_channels, self.eps, self.momentum)
        if stride == 1:
            return [conv, norm]
        return [SamePad(kernel_size, stride) if pads else nn.Identity(), conv, norm]  # weights keep their names

    def active(
        self, in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1, groups: int = 1
    ) -> list[nn.Module]:
        """act(norm(conv(x))). (N, in_channels, H, W) -> (N, out_channels, H/stride, W/stride)."""
        return [*self.linear(in_channels, out_channels, kernel_size, stride, groups), self.activation()]


class InvertedResidual(nn.Module):
    """[x +] branch(x), Fig. 4d: added where the branch keeps the shape. (N, C, H, W) -> what the branch makes of it."""

    def __init__(self, branch: nn.Module, adds: bool, drop_path: DropPath) -> None:
        super().__init__()
        self.branch = branch
        self.drop_path = drop_path if adds else None

    def forward(self, x: Tensor) -> Tensor:
        return self.branch(x) if self.drop_path is None else x + self.drop_path(self.branch, x)


def bottleneck(in_channels: int, out_channels: int, stride: int, expansion: int, style: Style) -> nn.Sequential:
    """narrow(filter(widen(x))), Table 1. (N, in_channels, H, W) -> (N, out_channels, H/stride, W/stride)."""
    wide = expansion * in_channels
    return nn.Sequential(
        *(style.active(in_channels, wide) if expansion > 1 else ()),
        *style.active(wide, wide, 3, stride, groups=wide),
        *style.linear(wide, out_channels),
    )


class MobileNetV2(Backbone):
    """MobileNetV2, 224x224 images; `width` multiplies the channels, those of the last convolution from 1 up only.

    The paper is silent on padding, on batch norm's constants and on dropout: they are those of the authors' release.
    `truncated_init`.
    """

    def __init__(
        self,
        width: float = 1.0,
        padding: Padding = "same",
        eps: float = 1e-3,
        momentum: float = 0.003,
        num_classes: int = 1000,
        in_channels: int = 3,
        drop_rate: float = 0.2,
        drop_path_rate: float = 0.0,
    ) -> None:
        if width <= 0:
            raise ValueError(f"width={width}; give a multiplier above 0, such as 0.35 to 1.4")
        style = Style(padding, eps, momentum, nn.ReLU6)
        channels, last = make_divisible(FIRST * width), make_divisible(LAST * max(width, 1.0))
        stem = nn.Sequential(*style.active(in_channels, channels, 3, stride=2))
        stages, depth, blocks = list[nn.Sequential](), 0, sum(row.n for row in TABLE_2)
        for row in TABLE_2:
            if row.s > 1 or not stages:
                stages.append(nn.Sequential())
            out_channels = make_divisible(row.c * width)
            for i in range(row.n):
                stride, depth = row.s if i == 0 else 1, depth + 1
                branch = bottleneck(channels, out_channels, stride, row.t, style)
                drop_path = DropPath(drop_path_rate * depth / blocks)
                stages[-1].append(InvertedResidual(branch, stride == 1 and channels == out_channels, drop_path))
                channels = out_channels
        stages[-1].append(nn.Sequential(*style.active(channels, last)))
        super().__init__(
            stem=stem,
            stages=stages,
            head=Head(last, num_classes, drop_rate=drop_rate),
            in_channels=in_channels,
            min_size=32,
            init=truncated_init,
        )


RELEASE = "authors' release, slim's page of MobileNet"
RECIPE = Recipe(
    source="Sec. 6.1",
    epochs=412,  # 5.5M steps of 96 images
    batch_size=96,
    lr=0.045,
    opt="rmsprop",
    alpha=0.9,
    eps=1.0,
    momentum=0.9,
    weight_decay=0.00004,
    decay_norm=False,
    decay_depthwise=False,
    sched="exponential",
    decay_rate=0.98,
    decay_epochs=1.0,
    smoothing=0.1,
    model_ema=True,
    model_ema_decay=0.9999,
    crop="area",
    scale=(0.05, 1.0),
    hflip=0.5,
    brightness=32 / 255,
    contrast=0.5,
    saturation=0.5,
    hue=0.2,
    deviations=(
        ONE_WORKER,
        "brightness is scaled, and contrast taken about the mean grey, where the release adds and takes channel means",
    ),
    elsewhere=dict.fromkeys(
        (
            *("epochs", "eps", "smoothing", "model_ema", "model_ema_decay", "crop", "scale", "hflip"),
            *("brightness", "contrast", "saturation", "hue", "decay_norm", "decay_depthwise"),
        ),
        "the authors' release",
    ),
)
SYMMETRIC = Departure(
    "a convolution that strides is padded by the same on each side",
    "silent; the authors' release pads as TensorFlow's SAME, the odd pixel at the far edge",
    RELEASE,
)
TORCH_NORM = Departure(
    "batch norm with eps 1e-5 and momentum 0.1", "silent; the authors' release has 1e-3 and 0.003", RELEASE
)
TORCH = {"padding": "symmetric", "eps": 1e-5, "momentum": 0.1}
SIZE = Reported("Table 2", maps=(112, 56, 28, 14, 7))
PRINTED = {  # width -> what the paper prints of it; params and madds
    0.35: (Reported("Sec. 4", params=1.7e6),),
    1.0: (
        Reported("Table 4", params=3.4e6, gap="3.505 M; without batch norm's 0.034 M, 3.47 M, cut to 3.4"),
        Reported("Table 4", madds=300e6, top1=72.0, protocol="one view"),
    ),
    1.4: (
        Reported("Table 4", params=6.9e6, gap="6.109 M counted; the release's page prints 6.06 M"),
        Reported("Table 4", madds=585e6, top1=74.7, protocol="one view"),
    ),
}
PAGE = (  # the checkpoints of the release's page: width, side of the image, madds, params, top-1, top-5
    (0.35, 224, 59e6, 1.66e6, 60.3, 82.9),
    (0.35, 192, 43e6, 1.66e6, 58.2, 81.2),
    (0.35, 160, 30e6, 1.66e6, 55.7, 79.1),
    (0.35, 128, 20e6, 1.66e6, 50.8, 75.0),
    (0.35, 96, 11e6, 1.66e6, 45.5, 70.4),
    (0.5, 224, 97e6, 1.95e6, 65.4, 86.4),
    (0.5, 192, 71e6, 1.95e6, 63.9, 85.4),
    (0.5, 160, 50e6, 1.95e6, 61.0, 83.2),
    (0.5, 128, 32e6, 1.95e6, 57.7, 80.8),
    (0.5, 96, 18e6, 1.95e6, 51.2, 75.8),
    (0.75, 224, 209e6, 2.61e6, 69.8, 89.6),
    (0.75, 192, 153e6, 2.61e6, 68.7, 88.9),
    (0.75, 160, 107e6, 2.61e6, 66.4, 87.3),
    (0.75, 128, 69e6, 2.61e6, 63.2, 85.3),
    (0.75, 96, 39e6, 2.61e6, 58.8, 81.6),
    (1.0, 224, 300e6, 3.47e6, 71.8, 91.0),
    (1.0, 192, 221e6, 3.47e6, 70.7, 90.1),
    (1.0, 160, 154e6, 3.47e6, 68.8, 89.0),
    (1.0, 128, 99e6, 3.47e6, 65.3, 86.9),
    (1.0, 96, 56e6, 3.47e6, 60.3, 83.2),
    (1.3, 224, 509e6, 5.34e6, 74.4, 92.1),
    (1.4, 224, 582e6, 6.06e6, 75.0, 92.5),
)
CUT_OFF = {
    (w, side): f"the page cuts {counted} off to millions"
    for w, side, counted in ((0.35, 192, "43.9 M"), (0.35, 160, "30.9 M"), (0.35, 96, "11.9 M"), (0.5, 96, "18.9 M"))
}
IN_TIMM = {0.35: "035", 0.5: "050", 0.75: "075", 1.0: "100", 1.3: "", 1.4: "140"}

for width, theirs in IN_TIMM.items():
    suffix = f"x{width}".replace(".", "_")
    name = "mobilenet_v2" if width == 1.0 else f"mobilenet_v2_{suffix}"
    released = [
        Reported(
            RELEASE, params, madds, side, top1=top1, top5=top5, protocol="one view", gap=CUT_OFF.get((w, side), "")
        )
        for w, side, madds, params, top1, top5 in PAGE
        if w == width
    ]
    alias = (f"{name}_{suffix}",) if width == 1.0 else ()
    twin = (f"mobilenetv2_{theirs}",) if theirs else ()
    claims = (*PRINTED.get(width, ()), SIZE, *released)
    register(
        Variant(name, MobileNetV2, PAPER, {"width": width}, claims, recipe=RECIPE, aliases=alias),
        Variant(
            f"{name}.tv",
            MobileNetV2,
            PAPER,
            {"width": width, **TORCH},
            departures=(SYMMETRIC, TORCH_NORM),
            recipe=RECIPE,
            aliases=twin,
        ),
    )
