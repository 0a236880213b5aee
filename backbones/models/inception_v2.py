"""Inception v2, or BN-Inception (Ioffe, Szegedy, 2015): every layer reads normalised values. Source: Fig. 5."""

from typing import Literal, NamedTuple, get_args

from torch import nn

from backbones.backbone import Backbone
from backbones.layers import Head, SamePad, he_init
from backbones.models.googlenet import NO_BRANCH, Branches, conv_norm_relu
from backbones.records import ONE_WORKER, Departure, Paper, Recipe, Reported, Variant
from backbones.registry import register

PAPER = Paper(
    title="Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift",
    authors="Ioffe, Szegedy",
    year=2015,
    venue="ICML 2015",
    arxiv="1502.03167",
    builds_on=("googlenet",),
)


class Row(NamedTuple):
    """One Inception module of Figure 5: the channels of its convolutions, in the order of the columns."""

    c1: int  # "#1x1"; 0 in the modules that stride by 2
    c3_reduce: int  # "#3x3 reduce": the 1x1 before the 3x3
    c3: int  # "#3x3"
    d3_reduce: int  # "double #3x3 reduce": the 1x1 before two 3x3 in a row
    d3: int  # "double #3x3": of both
    pool: Literal["avg", "max"]
    proj: int  # the 1x1 after the pooling; 0 where the pooled map passes through

    def out_channels(self, in_channels: int) -> int:
        return self.c1 + self.c3 + self.d3 + (self.proj or in_channels)


FIGURE_5 = {  # the digit is the number in the paper; a module without a 1x1 opens a stage
    "3a": Row(64, 64, 64, 64, 96, "avg", 32),
    "3b": Row(64, 64, 96, 64, 96, "avg", 64),
    "3c": Row(0, 128, 160, 64, 96, "max", 0),
    "4a": Row(224, 64, 96, 96, 128, "avg", 128),
    "4b": Row(192, 96, 128, 96, 128, "avg", 128),
    "4c": Row(160, 128, 160, 128, 160, "avg", 128),
    "4d": Row(96, 128, 192, 160, 192, "avg", 128),
    "4e": Row(0, 128, 192, 192, 256, "max", 0),
    "5a": Row(352, 192, 320, 160, 224, "avg", 128),
    "5b": Row(352, 192, 320, 192, 224, "max", 128),
}
SLIM_PROJ = {"4c": 96, "4d": 96}  # what makes 576 channels, as the figure's column of outputs prints
DEPTH_MULTIPLIER = 8  # filters of each channel in a separable first convolution

Release = Literal["paper", "slim"]
RELEASES = get_args(Release)


def max_pool() -> list[nn.Module]:
    """Over 3x3, stride 2. (N, C, H, W) -> (N, C, H/2, W/2), as large as a padded convolution makes it.

    Where H is even, this is Caffe's pooling that overhangs the far edge; where it is odd, Caffe's maps do not fit.
    """
    return [SamePad(3, 2, value=float("-inf")), nn.MaxPool2d(3, 2)]


class Windows(NamedTuple):
    """What the figure leaves open: the padding of windows, and what batch norm adds to a variance."""

    same: bool = False  # TensorFlow's SAME padding, which means leave out; else symmetric, and means count the zeros
    eps: float = 1e-5

    def conv(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> list[nn.Module]:
        """Convolution, batch norm, ReLU. (N, in_channels, H, W) -> (N, out_channels, H/stride, W/stride)."""
        if self.same and stride > 1:
            layers = conv_norm_relu(in_channels, out_channels, kernel_size, stride, padding=0, eps=self.eps)
            return [SamePad(kernel_size, stride), *layers]
        return conv_norm_relu(in_channels, out_channels, kernel_size, stride, eps=self.eps)

    def separable_conv(self, in_channels: int, out_channels: int) -> list[nn.Module]:
        """1x1 over 8 7x7 filters of each channel, batch norm, ReLU. (N, C, H, W) -> (N, out_channels, H/2, W/2).

        A single channel gets the filters of three, so that weights for colours can be adapted to it.
        """
        filters = DEPTH_MULTIPLIER * (in_channels if in_channels > 1 else 3)
        padding = 0 if self.same else 3
        depthwise = nn.Conv2d(in_channels, filters, 7, 2, padding, groups=in_channels, bias=False)
        pad = [SamePad(7, 2)] if self.same else []
        return [*pad, depthwise, *self.conv(filters, out_channels, 1)]

    def pool(self, kind: Literal["avg", "max"]) -> nn.Module:
        """Over 3x3. Keeps the shape."""
        return nn.MaxPool2d(3, 1, 1) if kind == "max" else nn.AvgPool2d(3, 1, 1, count_include_pad=not self.same)


CAFFE, SLIM = Windows(), Windows(same=True, eps=1e-3)


class InceptionV2Block(Branches):
    """concat(1x1(x), 3x3(1x1(x)), 3x3(3x3(1x1(x))), 1x1(pool(x))). (N, C, H, W) -> (N, row.out_channels(C), H, W).

    Without "#1x1": concat(3x3(1x1(x)), 3x3(3x3(1x1(x))), max(x)), the last layer of each with stride 2.
    """

    def __init__(self, in_channels: int, row: Row, windows: Windows = CAFFE) -> None:
        conv, stride = windows.conv, 1 if row.c1 else 2
        reduced = conv(in_channels, row.d3_reduce, 1)
        branches = [
            [*conv(in_channels, row.c3_reduce, 1), *conv(row.c3_reduce, row.c3, 3, stride)],
            [*reduced, *conv(row.d3_reduce, row.d3, 3), *conv(row.d3, row.d3, 3, stride)],
            [windows.pool(row.pool), *conv(in_channels, row.proj, 1)] if row.proj else max_pool(),
        ]
        if row.c1:
            branches.insert(0, conv(in_channels, row.c1, 1))
        super().__init__(*(nn.Sequential(*layers) for layers in branches))


class InceptionV2(Backbone):
    """BN-Inception, 224x224 images. conv1 is the stem; a stage opens with its max-pooling or its stride of 2.

    The widths of the branches decide: the printed outputs, 576 channels after 4c and 4d, are 608 by their sum. The
    paper prints no paddings and no initialisation: symmetric, with `max_pool` that overhangs, as in Caffe's copy;
    and `he_init`. It mentions auxiliary classifiers nowhere. The first convolution is `separable`, as the appendix has
    it; Caffe's copy has a full one. `release` "slim" is TensorFlow-Slim's: outputs as printed, its own padding. Slim's
    norms have no weights, and its first convolution has biases and no norm: special values of the parameters here.
    """

    def __init__(
        self,
        release: Release = "paper",
        separable: bool = True,
        num_classes: int = 1000,
        in_channels: int = 3,
        drop_rate: float = 0.0,
    ) -> None:
        if release not in RELEASES:
            raise ValueError(f"release={release!r}; give one of {', '.join(RELEASES)}")
        slim = release == "slim"
        windows = SLIM if slim else CAFFE
        conv, channels = windows.conv, 192
        stages = [
            nn.Sequential(*max_pool(), nn.Sequential(*conv(64, 64, 1)), nn.Sequential(*conv(64, channels, 3))),
            nn.Sequential(*max_pool()),
        ]
        for name, row in FIGURE_5.items():
            if slim:
                row = row._replace(proj=SLIM_PROJ.get(name, row.proj))
            if not row.c1:
                stages.append(nn.Sequential())
            stages[-1].append(InceptionV2Block(channels, row, windows))
            channels = row.out_channels(channels)
        stem = windows.separable_conv(in_channels, 64) if separable else conv(in_channels, 64, 7, 2)
        super().__init__(
            stem=nn.Sequential(*stem),
            stages=stages,
            head=Head(channels, num_classes, drop_rate=drop_rate),
            in_channels=in_channels,
            min_size=32,
            init=he_init,
        )


RECIPE = Recipe(
    source="Sec. 4.2, BN-x30",
    epochs=150,  # 6e6 steps of 32 images
    batch_size=32,
    lr=0.045,
    momentum=0.9,
    weight_decay=0.00004,
    sched="exponential",
    decay_rate=0.96,
    decay_epochs=8 / 6,  # six times as fast as GoogLeNet's
    model_ema=True,
    crop="area",
    scale=(0.08, 1.0),
    ratio=(3 / 4, 4 / 3),
    hflip=0.5,
    deviations=(
        ONE_WORKER,
        "no photometric distortions; the paper reduces GoogLeNet's and does not say to what",
    ),
    elsewhere={
        **dict.fromkeys(
            ("momentum", "sched", "decay_rate", "crop", "scale", "hflip", "model_ema"),
            "GoogLeNet's training, which the paper modifies",
        ),
        "weight_decay": "TensorFlow-Slim; the paper divides Inception's by 5 and prints neither",
    },
)
NO_READING = "Figure 5 counts to 11.2 or 11.3 million in all its readings; the paper does not say what else it counted"


def errors(protocol: str, top1: float, top5: float) -> Reported:
    """In percent, as Figure 4 prints them."""
    return Reported("Fig. 4", top1=100 - top1, top5=100 - top5, protocol=protocol)


register(
    Variant(
        "inception_v2",
        InceptionV2,
        PAPER,
        settings={"separable": True},
        reported=(
            Reported("Sec. 4.2", params=13.6e6, gap=NO_READING),
            Reported("Fig. 5", maps=(56, 28, 14, 7)),
            errors("1 crop, one network", 25.2, 7.82),
            errors("144 crops, one network", 21.99, 5.82),
            errors("144 crops, 6 networks", 20.1, 4.9),
        ),
        recipe=RECIPE,
        cannot=NO_BRANCH,
    ),
    Variant(
        "inception_v2.caffe",
        InceptionV2,
        PAPER,
        settings={"separable": False},
        reported=(Reported("1709.01507, Table 2", madds=2.03e9),),
        departures=(
            Departure("a full 7x7 first convolution", "a separable one with 8 filters per channel", "Appendix"),
        ),
        recipe=RECIPE,
        cannot=NO_BRANCH,
        aliases=("bninception", "bn_inception"),
    ),
    Variant(
        "inception_v2.slim",
        InceptionV2,
        PAPER,
        settings={"release": "slim", "separable": True, "drop_rate": 0.2},
        reported=(Reported("1707.07012, Table 2", params=11.2e6, madds=1.94e9),),
        departures=(
            Departure(
                "576 channels after 4c and 4d, whose pooled maps are projected to 96, and so 1024 after 4e",
                "projections to 128, which make 608 and 1056, beside printed outputs of 576 and 1024",
                "Fig. 5",
            ),
            Departure(
                "TensorFlow's SAME padding, which means leave out, and batch norm's epsilon of 1e-3",
                "not printed; symmetric padding, which means count, and 1e-5 in `inception_v2`",
                "Fig. 5",
            ),
            Departure("dropout of 20 % before the classifier", "none", "Sec. 4.2.1"),
        ),
        recipe=RECIPE,
        cannot=NO_BRANCH,
    ),
)
