"""NASNet-A (Zoph, Vasudevan, Shlens, Le, 2017): two cells found by search, stacked by hand. Source: Fig. 2 and 4.

N @ P names a network: N normal cells between two reductions, P channels in the last map. What the drawings leave open
(padding, batch norm, the previous map after a reduction) is as in the authors' TensorFlow release. NASNet-B and
NASNet-C are only drawn in the appendix, and nothing was released of them: they are left out, as is 5 @ 1538, whose
filters do not divide. Nothing was released of 7 @ 1920 either: it is built with the options of 6 @ 4032.
"""

import math
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.backbone import Backbone
from backbones.layers import AuxHead, DropPath, Head, SamePad, Window
from backbones.records import Departure, Paper, Recipe, Reported, Variant
from backbones.registry import register

PAPER = Paper(
    title="Learning Transferable Architectures for Scalable Image Recognition",
    authors="Zoph, Vasudevan, Shlens, Le",
    year=2017,
    venue="CVPR 2018",
    arxiv="1707.07012",
)


class Row(NamedTuple):
    """One combination of Fig. 4: the sum of two operations, each on a map that is already there."""

    left: str
    left_input: str  # h_i: the current map; h_i-1: the previous one; x1 to x5: the sums of the rows
    right: str
    right_input: str


class CellTable(NamedTuple):
    """One cell of Fig. 4."""

    rows: tuple[Row, ...]
    concatenated: tuple[str, ...]  # the maps that no row used
    stride: int  # of the operations on h_i and h_i-1


NORMAL_CELL = CellTable(
    rows=(
        Row("sep 5x5", "h_i", "sep 3x3", "h_i-1"),
        Row("sep 5x5", "h_i-1", "sep 3x3", "h_i-1"),
        Row("avg 3x3", "h_i", "identity", "h_i-1"),
        Row("avg 3x3", "h_i-1", "avg 3x3", "h_i-1"),
        Row("sep 3x3", "h_i", "identity", "h_i"),
    ),
    concatenated=("h_i-1", "x1", "x2", "x3", "x4", "x5"),
    stride=1,
)
REDUCTION_CELL = CellTable(
    rows=(
        Row("sep 5x5", "h_i", "sep 7x7", "h_i-1"),
        Row("max 3x3", "h_i", "sep 7x7", "h_i-1"),
        Row("avg 3x3", "h_i", "sep 5x5", "h_i-1"),
        Row("identity", "x2", "avg 3x3", "x1"),
        Row("sep 3x3", "x1", "max 3x3", "h_i"),
    ),
    concatenated=("x2", "x3", "x4", "x5"),
    stride=2,
)
GROUPS = 3  # of N normal cells each, a reduction cell between two groups
WIDEST = 4 * len(NORMAL_CELL.concatenated)  # P over the filters of the first group: they double at every reduction


def fan_out_init(module: nn.Module) -> None:
    """Weights of variance 2 / fan_out, cut off at two deviations; biases 0; norms are left at weight 1, bias 0.

    The paper prints none; the release's variance scaling, where 1.3 makes up for what the cut takes of the variance.
    """
    if isinstance(module, nn.Conv2d | nn.Linear):
        groups = module.groups if isinstance(module, nn.Conv2d) else 1
        std = math.sqrt(1.3 * 2 / (len(module.weight) // groups * module.weight[0, 0].numel()))
        nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class Style(NamedTuple):
    """What the layers of a network, or of one of its cells, share."""

    eps: float  # of batch norm
    count_include_pad: bool  # whether mean poolings with a stride count the padding's zeros
    drop_path_rate: float
    max_pad: float = float("-inf")  # around the map of max-poolings with a stride

    def projection(self, in_channels: int, out_channels: int, relu: bool = True) -> nn.Sequential:
        """norm(1x1(relu(x))). (N, C, H, W) -> (N, out_channels, H, W)."""
        conv, norm = nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels, self.eps)
        return nn.Sequential(nn.ReLU(), conv, norm) if relu else nn.Sequential(conv, norm)


def separable(kernel_size: int, in_channels: int, out_channels: int, stride: int, style: Style) -> nn.Sequential:
    """[ReLU, depthwise k x k, 1x1, norm] twice. (N, C, H, W) -> (N, out_channels, H/stride, W/stride)."""
    layers = nn.Sequential()
    for channels, step in ((in_channels, stride), (out_channels, 1)):
        pad, padding = ([SamePad(kernel_size, step)], 0) if step > 1 else ([], kernel_size // 2)
        depthwise = nn.Conv2d(channels, channels, kernel_size, step, padding, groups=channels, bias=False)
        layers.extend([nn.ReLU(), *pad, depthwise, *style.projection(channels, out_channels, relu=False)])
    return layers


class SameAvgPool(nn.Module):
    """Means of the values inside the map, padding apart. (N, C, H, W) -> (N, C, H/stride, W/stride)."""

    def __init__(self, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.pad, self.pool = SamePad(kernel_size, stride), nn.AvgPool2d(kernel_size, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.pad(x)) / self.pool(self.pad(x.new_ones(1, 1, *x.shape[-2:])))


def average(kernel_size: int, stride: int, style: Style) -> nn.Module:
    """Means. (N, C, H, W) -> (N, C, H/stride, W/stride)."""
    if stride == 1:
        return nn.AvgPool2d(kernel_size, 1, kernel_size // 2, count_include_pad=False)
    if style.count_include_pad:
        return nn.Sequential(SamePad(kernel_size, stride), nn.AvgPool2d(kernel_size, stride))
    return SameAvgPool(kernel_size, stride)


class Droppable(DropPath):
    """drop_path(operation(x)), each image for itself. (N, C, H, W) -> what the operation makes of it."""

    def __init__(self, operation: nn.Module, rate: float) -> None:
        super().__init__(rate, mode="row")
        self.operation = operation

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        out = super().forward(self.operation, x)
        return out if out.ndim else torch.zeros_like(self.operation(x))  # mode "batch": the next row reads its shape


def operation(kind: str, in_channels: int, out_channels: int, stride: int, style: Style) -> nn.Module:
    """One operation of the tables; other channels are projected. -> (N, out_channels, H/stride, W/stride)."""
    if kind == "identity":
        return nn.Identity() if in_channels == out_channels else style.projection(in_channels, out_channels)
    name, kernel_size = kind[:3], int(kind[-1])
    layers: nn.Module
    if name == "sep":
        layers = separable(kernel_size, in_channels, out_channels, stride, style)
    elif name == "max":
        layers = nn.Sequential(SamePad(kernel_size, stride, style.max_pad), nn.MaxPool2d(kernel_size, stride))
    else:
        layers = average(kernel_size, stride, style)
    if name != "sep" and in_channels != out_channels:
        layers = nn.Sequential(layers, *style.projection(in_channels, out_channels, relu=False))
    return Droppable(layers, style.drop_path_rate)


class Shift(Window):
    """Every value moves up and left by one; zeros move in. (N, C, H, W) -> (N, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, (-self.spread, self.spread) * 2)


class FactorizedReduction(nn.Module):
    """norm(cat(1x1 of every second value of relu(x), 1x1 of the values between)). -> (N, out_channels, H/2, W/2)."""

    def __init__(self, in_channels: int, out_channels: int, style: Style) -> None:
        super().__init__()
        even, odd = (nn.Conv2d(in_channels, out_channels // 2, 1, bias=False) for _ in range(2))
        self.relu = nn.ReLU()
        self.even, self.odd = nn.Sequential(nn.AvgPool2d(1, 2), even), nn.Sequential(Shift(), nn.AvgPool2d(1, 2), odd)
        self.norm = nn.BatchNorm2d(out_channels, style.eps)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(x)
        return self.norm(torch.cat([self.even(x), self.odd(x)], 1))


Maps = tuple[Tensor, Tensor]


class Cell(nn.Module):
    """(h_i-1, h_i) -> (h_i, cat of what the table says), or (h_i-1, that) where it `skips` its input.

    h_i is projected to `filters` channels, h_i-1 by `adjust` to the first of `channels`. The first cell of a network
    reads one map for both and leaves h_i-1 as it is: the operations on it project.
    """

    def __init__(
        self, table: CellTable, adjust: nn.Module, channels: tuple[int, int], filters: int, style: Style, skips: bool
    ) -> None:
        super().__init__()
        previous, current = channels
        self.table, self.skips = table, skips
        self.adjust, self.project = adjust, style.projection(current, filters)
        self.operations = nn.ModuleList()
        for left, left_input, right, right_input in table.rows:
            for kind, source in ((left, left_input), (right, right_input)):
                in_channels = previous if source == "h_i-1" else filters
                stride = table.stride if source.startswith("h") else 1
                self.operations.append(operation(kind, in_channels, filters, stride, style))
        fits = previous == filters or "h_i-1" not in table.concatenated
        self.fit = nn.Identity() if fits else style.projection(previous, filters, relu=False)

    def forward(self, maps: Tensor | Maps) -> Maps:
        previous, current = maps if isinstance(maps, tuple) else (maps, maps)
        known = {"h_i-1": self.adjust(previous), "h_i": self.project(current)}
        operations = iter(self.operations)
        for i, row in enumerate(self.table.rows, start=1):
            known[f"x{i}"] = next(operations)(known[row.left_input]) + next(operations)(known[row.right_input])
        known["h_i-1"] = self.fit(known["h_i-1"])
        out = torch.cat([known[name] for name in self.table.concatenated], 1)
        return previous if self.skips else current, out


class NewestReLU(nn.ReLU):
    """relu of the newest map: no cell follows that would read the previous one."""

    def forward(self, maps: Maps) -> Tensor:  # type: ignore[override]
        return super().forward(maps[-1])


class CellStack:
    """Makes `depth` cells, one after another, and knows what travels between them.

    Cell l drops its operations with probability l / depth * drop_path_rate.
    """

    def __init__(self, in_channels: int, depth: int, style: Style) -> None:
        self.style, self.depth, self.made = style, depth, 0
        self.previous, self.current, self.halved = 0, in_channels, False  # channels; whether h_i is half as large

    def cell(self, table: CellTable, filters: int, skips: bool = False) -> Cell:
        self.made += 1
        style = self.style._replace(drop_path_rate=self.style.drop_path_rate * self.made / self.depth)
        adjust: nn.Module = nn.Identity()
        if self.halved:
            adjust = FactorizedReduction(self.previous, filters, style)
        elif self.previous:
            adjust = style.projection(self.previous, filters)
        adjusted = filters if self.previous else self.current
        cell = Cell(table, adjust, (adjusted, self.current), filters, style, skips)
        self.previous = self.previous if skips else self.current
        self.current, self.halved = filters * len(table.concatenated), table.stride > 1
        return cell

    def groups(self, repeats: int, filters: int, skips: bool = False) -> list[nn.Sequential]:
        """The normal cells, a reduction in front of the second and third group, relu at the end."""
        groups = []
        for group in range(GROUPS):
            cells = [self.cell(REDUCTION_CELL, filters << group, skips)] if group else []
            cells += [self.cell(NORMAL_CELL, filters << group) for _ in range(repeats)]
            groups.append(nn.Sequential(*cells))
        groups[-1].append(NewestReLU())
        return groups


class NASNetAuxHead(AuxHead):
    """head(trunk(pool(relu(x)))); the trunk's second convolution covers a map of `side` values (release)."""

    def __init__(self, in_channels: int, side: int, num_classes: int, style: Style) -> None:
        wide = nn.Conv2d(128, 768, side, bias=False)
        narrow = style.projection(in_channels, 128, relu=False)
        trunk = nn.Sequential(*narrow, nn.ReLU(), wide, nn.BatchNorm2d(768, style.eps), nn.ReLU())
        super().__init__(trunk, Head(768, num_classes), least=side)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.relu(x))


def first_filters(repeats: int, penultimate_filters: int, divisor: int) -> int:
    """Filters of the first group of N @ P. ValueError where the narrowest cell's would not come out even."""
    if repeats < 1 or penultimate_filters < 1 or penultimate_filters % divisor:
        given = f"repeats={repeats}, penultimate_filters={penultimate_filters}"
        raise ValueError(f"{given}; give 1 or more normal cells and a multiple of {divisor} filters")
    return penultimate_filters // WIDEST


class NASNet(Backbone):
    """NASNet-A for ImageNet: `repeats` @ `penultimate_filters` (Fig. 2 right). `fan_out_init`.

    The stem strides by 2, each of two reduction cells by 2 again; a stage begins with the reduction that makes its
    resolution. `skip_reduction_layer_input`: the cell after a reduction reads the map before the last as its previous
    one; `aux_side` is the side of the auxiliary head's full-size convolution. With `zero_pad` the zeros of the padding
    enter the poolings with a stride, those of the mean as `count_include_pad` alone lets them.
    """

    def __init__(
        self,
        repeats: int,
        penultimate_filters: int,
        stem_channels: int = 32,
        skip_reduction_layer_input: bool = False,
        count_include_pad: bool = False,
        zero_pad: bool = False,
        aux: bool = True,
        aux_side: int = 4,
        num_classes: int = 1000,
        in_channels: int = 3,
        drop_rate: float = 0.5,
        drop_path_rate: float = 0.0,
    ) -> None:
        max_pad = 0.0 if zero_pad else float("-inf")
        style = Style(1e-3, count_include_pad or zero_pad, drop_path_rate, max_pad)
        filters = first_filters(repeats, penultimate_filters, 4 * WIDEST)
        cells = CellStack(stem_channels, GROUPS * repeats + GROUPS + 1, style)
        early = [cells.cell(REDUCTION_CELL, filters // 4), cells.cell(REDUCTION_CELL, filters // 2)]
        first, *groups = cells.groups(repeats, filters, skip_reduction_layer_input)
        stem = nn.Conv2d(in_channels, stem_channels, 3, 2, bias=False)
        tap = NASNetAuxHead(penultimate_filters // 2, aux_side, num_classes, style) if aux else None
        super().__init__(
            stem=nn.Sequential(stem, nn.BatchNorm2d(stem_channels, style.eps)),
            stages=[nn.Sequential(early[0]), first.insert(0, early[1]), *groups],
            head=Head(penultimate_filters, num_classes, drop_rate=drop_rate),
            in_channels=in_channels,
            min_size=32,
            init=fan_out_init,
            aux={(2, repeats): tap} if tap else None,
        )


class CifarNASNet(Backbone):
    """NASNet-A for CIFAR: `repeats` @ `penultimate_filters` (Fig. 2 left), strides 1, 2 and 4. `fan_out_init`."""

    def __init__(
        self,
        repeats: int,
        penultimate_filters: int,
        aux: bool = True,
        num_classes: int = 10,
        in_channels: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.4,
    ) -> None:
        style = Style(1e-5, False, drop_path_rate)
        filters = first_filters(repeats, penultimate_filters, 2 * WIDEST)
        stem = nn.Conv2d(in_channels, 3 * filters, 3, padding=1, bias=False)
        cells = CellStack(3 * filters, GROUPS * repeats + GROUPS - 1, style)
        tap = NASNetAuxHead(penultimate_filters // 2, 4, num_classes, style) if aux else None
        super().__init__(
            stem=nn.Sequential(stem, nn.BatchNorm2d(3 * filters, style.eps)),
            stages=cells.groups(repeats, filters),
            head=Head(penultimate_filters, num_classes, drop_rate=drop_rate),
            in_channels=in_channels,
            min_size=4,
            init=fan_out_init,
            aux={(1, repeats): tap} if tap else None,
        )


MOBILE_RECIPE = Recipe(
    source="Appendix A",
    epochs=312,  # 250,000 steps of 1600 images
    batch_size=1600,
    lr=2.0,
    opt="rmsprop",
    alpha=0.9,
    eps=1.0,
    momentum=0.9,
    weight_decay=4e-5,
    decay_norm=False,
    sched="exponential",
    decay_rate=0.97,
    decay_epochs=2.4,
    smoothing=0.1,
    aux_weight=0.4,
    clip_grad=10.0,
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
        "brightness is scaled, and contrast taken about the mean grey, where the release adds and takes channel means",
    ),
    elsewhere={
        **dict.fromkeys(
            (
                *("batch_size", "lr", "momentum", "weight_decay", "decay_norm", "decay_rate", "decay_epochs"),
                *("clip_grad", "crop", "scale", "hflip", "brightness", "contrast", "saturation", "hue", "bn_momentum"),
            ),
            "the authors' release",
        ),
        "epochs": "the steps in which the authors' release counts its drop-path schedule",
    },
)
LARGE_RECIPE = replace(MOBILE_RECIPE, lr=1.5, weight_decay=5e-5, drop_path_ramp=True)
CIFAR_RECIPE = Recipe(
    source="Appendix A",
    epochs=600,
    batch_size=32,
    lr=0.025,
    momentum=0.9,
    weight_decay=5e-4,
    decay_norm=False,
    sched="cosine",
    aux_weight=0.4,
    clip_grad=5.0,
    drop_path_ramp=True,
    crop="pad",
    crop_pad=4,
    hflip=0.5,
    cutout=0.5,
    deviations=("with cutout, as for the lower of the two errors of each network; --cutout 0 is for the other",),
    elsewhere={
        **dict.fromkeys(("batch_size", "lr", "weight_decay", "decay_norm", "clip_grad"), "the authors' release"),
        "cutout": "1708.04552: 16 of 32 pixels",
    },
)
UNEXPLAINED = "counted as the authors' release builds networks; of those it configures the numbers are as printed"
PADDING_COUNTS = Departure(
    "3x3 mean poolings with stride 2 count the zeros of the padding",
    "means of the values inside the map, as TensorFlow computes them",
    "Fig. 4 and the release",
)
ZEROS_ENTER = (
    PADDING_COUNTS,
    Departure(
        "the zeros of the padding enter 3x3 max-poolings with stride 2",
        "only values inside the map do, as TensorFlow computes them",
        "Fig. 4 and the release",
    ),
)
LARGE: dict[str, Any] = {"stem_channels": 96, "skip_reduction_layer_input": True, "drop_path_rate": 0.3, "aux": True}


def imagenet(name: str, side: int, settings: dict[str, Any], *reported: Reported, **more: Any) -> None:
    register(Variant(name, NASNet, PAPER, settings, reported, input_size=(3, side, side), **more))


def cifar(name: str, n: int, p: int, params: float, error: float, with_cutout: float, gap: str = "") -> None:
    settings, how = {"repeats": n, "penultimate_filters": p, "aux": True}, "one view, mean of 5 runs"
    claim = Reported("Table 1", params, top1=100 - error, data="CIFAR-10 test", protocol=how, gap=gap)
    cutout = replace(claim, params=None, gap="", top1=100 - with_cutout, protocol=f"{how}, trained with cutout")
    shape: dict[str, Any] = {"input_size": (3, 32, 32), "crop": 1.0, "num_classes": 10}
    register(Variant(name, CifarNASNet, PAPER, settings, (claim, cutout), recipe=CIFAR_RECIPE, **shape))


cifar("nasnet_a_6_768_cifar", 6, 768, 3.3e6, 3.41, 2.65)
cifar("nasnet_a_7_2304_cifar", 7, 2304, 27.6e6, 2.97, 2.40, gap=UNEXPLAINED)
FOUR_1056 = {"repeats": 4, "penultimate_filters": 1056, "aux": True, "aux_side": 4}
imagenet(
    "nasnet_a_4_1056",
    224,
    FOUR_1056,
    Reported("Table 3", 5.3e6, 564e6, maps=(56, 28, 14, 7), top1=74.0, top5=91.6, protocol="one crop"),
    recipe=MOBILE_RECIPE,
)
imagenet(
    "nasnet_a_7_1920",
    299,
    {"repeats": 7, "penultimate_filters": 1920, "aux_side": 5, **LARGE},
    Reported("Table 2", 22.6e6, 4.93e9, top1=80.8, top5=95.3, protocol="one crop", gap=UNEXPLAINED),
    recipe=LARGE_RECIPE,
)
SIX_4032 = {"repeats": 6, "penultimate_filters": 4032, "aux_side": 6, **LARGE}
imagenet(
    "nasnet_a_6_4032",
    331,
    SIX_4032,
    Reported("Table 2", 88.9e6, 23.8e9, maps=(83, 42, 21, 11), top1=82.7, top5=96.2, protocol="one crop"),
    recipe=LARGE_RECIPE,
)
imagenet(
    "nasnet_a_4_1056.keras",
    224,
    {**FOUR_1056, "zero_pad": True},
    departures=ZEROS_ENTER,
    recipe=MOBILE_RECIPE,
)
imagenet(
    "nasnet_a_6_4032.keras",
    331,
    {**SIX_4032, "zero_pad": True},
    departures=ZEROS_ENTER,
    recipe=LARGE_RECIPE,
)
imagenet(
    "nasnet_a_6_4032.timm",
    331,
    {**SIX_4032, "count_include_pad": True},
    departures=(PADDING_COUNTS,),
    recipe=LARGE_RECIPE,
    crop=0.911,
    aliases=("nasnetalarge",),
)
