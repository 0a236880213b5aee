"""Inception-v4 (Szegedy et al., 2016): Inception made uniform, one block per resolution. Source: Fig. 3 to 9, Table 1.

The residual networks of the same paper are in `inception_resnet`.
"""

from dataclasses import replace
from typing import Any, Literal, get_args

from torch import nn

from backbones.backbone import Backbone
from backbones.layers import Head
from backbones.models.googlenet import NO_BRANCH, Branches
from backbones.models.inception_v3 import RECIPE as V3_RECIPE
from backbones.models.inception_v3 import branch, conv_norm, errors, fan, pool_branch, released_init
from backbones.records import Departure, Paper, Reported, Variant
from backbones.registry import register

PAPER = Paper(
    title="Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning",
    authors="Szegedy, Ioffe, Vanhoucke, Alemi",
    year=2016,
    venue="AAAI 2017",
    arxiv="1602.07261",
    builds_on=("googlenet", "inception_v3"),
)

FIG_9 = {"A": 4, "B": 7, "C": 3}  # block -> how many
TABLE_1 = {"k": 192, "l": 224, "m": 256, "n": 384}  # filters of Reduction-A (Fig. 7): 1x1 k, 3x3 l, 3x3/2 m; 3x3/2 n
ROW, COLUMN = (1, 7), (7, 1)

Release = Literal["paper", "slim"]
RELEASES = get_args(Release)


def stem(in_channels: int) -> nn.Sequential:
    """The first three convolutions of Fig. 3 and 14. (N, in_channels, 299, 299) -> (N, 64, 147, 147)."""
    return nn.Sequential(
        conv_norm(in_channels, 32, 3, 2, pad=False), conv_norm(32, 32, 3, pad=False), conv_norm(32, 64, 3)
    )


def stem_73(release: Release) -> nn.Sequential:
    """The next two concatenations of Fig. 3. (N, 64, 147, 147) -> (N, 192, 71, 71)."""
    a, b = (ROW, COLUMN) if release == "slim" else (COLUMN, ROW)
    return nn.Sequential(
        Branches(nn.MaxPool2d(3, 2), branch(64, (3, 96), valid_stride=2)),
        Branches(
            branch(160, (1, 64), (3, 96), valid_stride=1),
            branch(160, (1, 64), (a, 64), (b, 64), (3, 96), valid_stride=1),
        ),
    )


def stem_35() -> Branches:
    """The last concatenation of Fig. 3. (N, 192, 71, 71) -> (N, 384, 35, 35)."""
    return Branches(branch(192, (3, 192), valid_stride=2), nn.MaxPool2d(3, 2))


def inception_a() -> Branches:
    """1x1, a 3x3, two 3x3 and a pooling side by side (Fig. 4). (N, 384, 35, 35) -> the same shape."""
    return Branches(
        branch(384, (1, 96)),
        branch(384, (1, 64), (3, 96)),
        branch(384, (1, 64), (3, 96), (3, 96)),
        pool_branch(384, 96),
    )


def reduction_a(in_channels: int, k: int, l: int, m: int, n: int) -> Branches:  # noqa: E741
    """A 3x3, two 3x3 and a pooling, stride 2 (Fig. 7). (N, C, 35, 35) -> (N, C + m + n, 17, 17)."""
    return Branches(
        branch(in_channels, (3, n), valid_stride=2),
        branch(in_channels, (1, k), (3, l), (3, m), valid_stride=2),
        nn.MaxPool2d(3, 2),
    )


def inception_b(release: Release) -> Branches:
    """1x1, a 7x7 and two 7x7 in 1x7 and 7x1, a pooling side by side (Fig. 5). (N, 1024, 17, 17) -> the same shape."""
    a, b = (COLUMN, ROW) if release == "slim" else (ROW, COLUMN)
    return Branches(
        branch(1024, (1, 384)),
        branch(1024, (1, 192), (ROW, 224), (COLUMN, 256)),
        branch(1024, (1, 192), (a, 192), (b, 224), (a, 224), (b, 256)),
        pool_branch(1024, 128),
    )


def reduction_b() -> Branches:
    """A 3x3, a 7x7 and 3x3, and a pooling, stride 2 (Fig. 8). (N, 1024, 17, 17) -> (N, 1536, 8, 8)."""
    return Branches(
        branch(1024, (1, 192), (3, 192), valid_stride=2),
        branch(1024, (1, 256), (ROW, 256), (COLUMN, 320), (3, 320), valid_stride=2),
        nn.MaxPool2d(3, 2),
    )


def inception_c(release: Release) -> Branches:
    """1x1, a fan, a fan behind a 3x3, a pooling side by side (Fig. 6). (N, 1536, 8, 8) -> the same shape."""
    a, b = ((3, 1), (1, 3)) if release == "slim" else ((1, 3), (3, 1))
    return Branches(
        branch(1536, (1, 256)),
        branch(1536, (1, 384)).append(fan(384, 256)),
        branch(1536, (1, 384), (a, 448), (b, 512)).append(fan(512, 256)),
        pool_branch(1536, 256),
    )


def slim_init(module: nn.Module) -> None:
    """`released_init`, but Glorot's uniform weights in the classifier: the authors' release; the paper prints none."""
    released_init(module)
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)


class InceptionV4(Backbone):
    """Inception-v4, 299x299 images. Fig. 3 is spread over the stem and the first two stages: strides 2, 4 and 8.

    `release` "slim" runs the rows and columns of filters in the order of the authors' release. `slim_init`.
    """

    def __init__(
        self, release: Release = "paper", num_classes: int = 1000, in_channels: int = 3, drop_rate: float = 0.2
    ) -> None:
        if release not in RELEASES:
            raise ValueError(f"release={release!r}; give one of {', '.join(RELEASES)}")
        stages = [
            stem_73(release),
            nn.Sequential(stem_35(), *(inception_a() for _ in range(FIG_9["A"]))),
            nn.Sequential(reduction_a(384, **TABLE_1), *(inception_b(release) for _ in range(FIG_9["B"]))),
            nn.Sequential(reduction_b(), *(inception_c(release) for _ in range(FIG_9["C"]))),
        ]
        super().__init__(
            stem=stem(in_channels),
            stages=stages,
            head=Head(1536, num_classes, drop_rate=drop_rate),
            in_channels=in_channels,
            min_size=75,
            init=slim_init,
        )


RECIPE = replace(
    V3_RECIPE,
    source="Sec. 4",
    aux_weight=0.3,  # not used: the paper's figures have no auxiliary classifier
    elsewhere={
        **V3_RECIPE.elsewhere,
        **dict.fromkeys(("epochs", "batch_size", "clip_grad", "smoothing"), "1512.00567, Inception-v3's training"),
    },
)
ALL = "ImageNet-1k validation"
SHAPE: dict[str, Any] = {"input_size": (3, 299, 299), "recipe": RECIPE}


def crops(single: tuple[float, float], dozen: tuple[float, float], gross: tuple[float, float]) -> tuple[Reported, ...]:
    """Errors of 1, 12 and 144 crops; only those of one crop leave the blacklisted images out (Sec. 5)."""
    return (
        errors("Table 2", *single, "single crop"),
        replace(errors("Table 3", *dozen, "12 crops"), data=ALL),
        replace(errors("Table 4", *gross, "144 crops"), data=ALL),
    )


register(
    Variant(
        "inception_v4",
        InceptionV4,
        PAPER,
        settings={},
        reported=(
            Reported("Fig. 9", maps=(71, 35, 17, 8)),
            Reported(
                "1905.11946, Table 2",
                params=48e6,
                madds=13e9,
                gap="unknown: the release's auxiliary head makes 46 M",
            ),
            *crops((20.0, 5.0), (18.7, 4.2), (17.7, 3.8)),
        ),
        cannot=NO_BRANCH,
        **SHAPE,
    ),
    Variant(
        "inception_v4.timm",
        InceptionV4,
        PAPER,
        settings={"release": "slim"},
        departures=(
            Departure("1x7, then 7x1 in the stem", "7x1, then 1x7", "Fig. 3"),
            Departure("7x1 and 1x7 alternate in the longest branch of block B", "1x7 and 7x1", "Fig. 5"),
            Departure("3x1, then 1x3 in the longest branch of block C", "1x3, then 3x1", "Fig. 6"),
        ),
        cannot=NO_BRANCH,
        **SHAPE,
    ),
)
