"""Xception (Chollet, 2016): Inception with as many towers as channels is a separable convolution. Source: Fig. 5."""

from typing import Literal, NamedTuple, get_args

from torch import Tensor, nn

from backbones.backbone import Backbone
from backbones.layers import DropPath, Head, SamePad
from backbones.models.vgg import glorot_init
from backbones.records import Departure, Paper, Recipe, Reported, Variant
from backbones.registry import register

PAPER = Paper(
    title="Xception: Deep Learning with Depthwise Separable Convolutions",
    authors="Chollet",
    year=2016,
    venue="CVPR 2017",
    arxiv="1610.02357",
    builds_on=("vgg", "resnet"),
)


class Row(NamedTuple):
    """One module of Figure 5 with a linear residual connection around it, or several alike."""

    channels: tuple[int, ...]  # put out by each separable convolution
    stride: int  # 2: a 3x3 max-pooling ends the branch, a 1x1 convolution shortens the way past it
    repeats: int = 1


FIGURE_5 = (  # a line for each stage
    (Row((128, 128), 2),),  # entry flow
    (Row((256, 256), 2),),
    (Row((728, 728), 2), Row((728, 728, 728), 1, repeats=8)),  # its end, and the middle flow
    (Row((728, 1024), 2),),  # exit flow
)
STEM = (32, 64)  # channels of the two 3x3 convolutions before the modules, the first with stride 2
EXIT = (1536, 2048)  # channels of the two separable convolutions behind them

Padding = Literal["same", "symmetric"]


class SeparableConv2d(nn.Module):
    """pointwise(depthwise(x)): each channel by itself in space, then all channels at each place, nothing between.

    (N, in_channels, H, W) -> (N, out_channels, H, W).
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3) -> None:
        super().__init__()
        padding = kernel_size // 2
        self.depthwise = nn.Conv2d(
            in_channels, in_channels, kernel_size, padding=padding, groups=in_channels, bias=False
        )
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x))


class XceptionModule(nn.Module):
    """branch(x) + shortcut(x), both linear at the end. (N, C, H, W) -> (N, row.channels[-1], H/stride, W/stride)."""

    def __init__(
        self, in_channels: int, row: Row, relu_first: bool, padding: Padding, norm_eps: float, drop_path_rate: float
    ) -> None:
        super().__init__()
        self.branch, channels = nn.Sequential(), in_channels
        for out_channels in row.channels:
            self.branch.extend(
                [nn.ReLU(), SeparableConv2d(channels, out_channels), nn.BatchNorm2d(out_channels, norm_eps)]
            )
            channels = out_channels
        if not relu_first:
            del self.branch[0]
        if row.stride > 1 and padding == "same":
            self.branch.extend([SamePad(3, row.stride, value=float("-inf")), nn.MaxPool2d(3, row.stride)])
        elif row.stride > 1:
            self.branch.append(nn.MaxPool2d(3, row.stride, 1))
        self.shortcut = nn.Sequential()
        if row.stride > 1:
            conv = nn.Conv2d(in_channels, channels, 1, row.stride, bias=False)
            self.shortcut.extend([conv, nn.BatchNorm2d(channels, norm_eps)])
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop_path(self.branch, x) + self.shortcut(x)


class Xception(Backbone):
    """Xception, 299x299 images. The two unpadded convolutions are the stem; the modules of one resolution a stage.

    The first module does not begin with a ReLU, since the stem ends with one. The paper is silent on padding, the
    norms' eps and the initialisation: they are those of the author's release in Keras, SAME, 1e-3 and `glorot_init`.
    """

    def __init__(
        self,
        padding: Padding = "same",
        norm_eps: float = 1e-3,
        num_classes: int = 1000,
        in_channels: int = 3,
        drop_rate: float = 0.5,
        drop_path_rate: float = 0.0,
    ) -> None:
        if padding not in get_args(Padding):
            raise ValueError(f"padding={padding!r}; give one of {', '.join(get_args(Padding))}")
        first, channels = STEM
        stem = nn.Sequential(
            *(nn.Conv2d(in_channels, first, 3, 2, bias=False), nn.BatchNorm2d(first, norm_eps), nn.ReLU()),
            *(nn.Conv2d(first, channels, 3, bias=False), nn.BatchNorm2d(channels, norm_eps), nn.ReLU()),
        )
        modules, depth = sum(row.repeats for rows in FIGURE_5 for row in rows), 0
        stages: list[nn.Sequential] = []
        for rows in FIGURE_5:
            stage = nn.Sequential()
            for row in rows:
                for _ in range(row.repeats):
                    depth += 1
                    rate = drop_path_rate * depth / modules
                    stage.append(XceptionModule(channels, row, depth > 1, padding, norm_eps, rate))
                    channels = row.channels[-1]
            stages.append(stage)
        for out_channels in EXIT:
            norm = nn.BatchNorm2d(out_channels, norm_eps)
            stages[-1].append(nn.Sequential(SeparableConv2d(channels, out_channels), norm, nn.ReLU()))
            channels = out_channels
        super().__init__(
            stem=stem,
            stages=stages,
            head=Head(channels, num_classes, drop_rate=drop_rate),
            in_channels=in_channels,
            min_size=32,
            init=glorot_init,
        )


RECIPE = Recipe(
    source="Sec. 4.2 and 4.3",
    epochs=100,
    batch_size=256,
    lr=0.045,
    momentum=0.9,
    weight_decay=1e-5,
    sched="exponential",
    decay_rate=0.94,
    decay_epochs=2.0,
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
        "256 images per step and 100 epochs, which the paper does not print (it trained on 60 GPUs for three days)",
        "an exponential moving average of the weights, in place of Polyak's average",
        "brightness is scaled, and contrast taken about the mean grey, where the release adds and takes channel means",
    ),
    elsewhere={
        **dict.fromkeys(("batch_size", "epochs"), "this library"),
        **dict.fromkeys(
            ("crop", "scale", "hflip", "brightness", "contrast", "saturation", "hue", "model_ema_decay"),
            "the release of Inception-v3, with which the paper compares",
        ),
    },
)
SYMMETRIC = Departure("max-poolings padded by 1 on every side", "SAME padding of the author's release", "Fig. 5")
EPS = Departure("batch normalisation with eps 1e-5", "1e-3 in the author's release", "Sec. 3")
NO_DROPOUT = Departure("no dropout", "dropout of rate 0.5 before the classifier", "Sec. 4.3")
SUBSET = "ImageNet-1k validation, the 48,238 images that are not blacklisted"

register(
    Variant(
        "xception",
        Xception,
        PAPER,
        {"padding": "same", "norm_eps": 1e-3},
        reported=(
            Reported("Table 3", params=22_855_952),
            Reported("1707.07012, Table 2", params=22.8e6, madds=8.38e9),
            Reported("Table 1", top1=79.0, top5=94.5, data=SUBSET, protocol="one crop, one network"),
        ),
        recipe=RECIPE,
        input_size=(3, 299, 299),
    ),
    Variant(
        "xception.timm",
        Xception,
        PAPER,
        {"padding": "symmetric", "norm_eps": 1e-5, "drop_rate": 0.0},
        departures=(SYMMETRIC, EPS, NO_DROPOUT),
        recipe=RECIPE,
        input_size=(3, 299, 299),
        aliases=("legacy_xception",),
    ),
)
