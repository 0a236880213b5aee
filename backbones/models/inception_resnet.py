"""Inception-ResNet (Szegedy et al., 2016): Inception blocks learn what to add. Source: Fig. 3, 7 and 10 to 20, Table 1.

The network without shortcuts of the same paper is in `inception_v4`.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple, get_args

from torch import Tensor, nn

from backbones.backbone import Backbone
from backbones.layers import Head
from backbones.models.googlenet import Branches
from backbones.models.inception_v3 import Kernel, branch, conv_norm, pool_branch
from backbones.models.inception_v4 import PAPER as V4_PAPER
from backbones.models.inception_v4 import RECIPE, crops, reduction_a, slim_init, stem, stem_35, stem_73
from backbones.models.resnet import ResidualBlock
from backbones.records import Departure, Reported, Variant
from backbones.registry import register

PAPER = replace(V4_PAPER, builds_on=("googlenet", "resnet", "inception_v3", "inception_v4"))

Convs = tuple[tuple[Kernel, int], ...]  # one branch: (kernel size, channels) of each convolution


class Banks(NamedTuple):
    """The filter banks of one network, branch by branch. A linear 1x1 behind each block restores the trunk's width."""

    a: tuple[Convs, ...]
    table_1: Mapping[str, int]  # Reduction-A: 1x1 k, 3x3 l, 3x3/2 m; 3x3/2 n; max-pooling
    b: tuple[Convs, ...]
    reduction_b: tuple[Convs, ...]  # beside a max-pooling; the last convolution of each strides
    c: tuple[Convs, ...]


BANKS = {
    1: Banks(
        a=(((1, 32),), ((1, 32), (3, 32)), ((1, 32), (3, 32), (3, 32))),  # Fig. 10
        table_1={"k": 192, "l": 192, "m": 256, "n": 384},
        b=(((1, 128),), ((1, 128), ((1, 7), 128), ((7, 1), 128))),  # Fig. 11
        reduction_b=(((1, 256), (3, 384)), ((1, 256), (3, 256)), ((1, 256), (3, 256), (3, 256))),  # Fig. 12
        c=(((1, 192),), ((1, 192), ((1, 3), 192), ((3, 1), 192))),  # Fig. 13
    ),
    2: Banks(
        a=(((1, 32),), ((1, 32), (3, 32)), ((1, 32), (3, 48), (3, 64))),  # Fig. 16
        table_1={"k": 256, "l": 256, "m": 384, "n": 384},
        b=(((1, 192),), ((1, 128), ((1, 7), 160), ((7, 1), 192))),  # Fig. 17
        reduction_b=(((1, 256), (3, 384)), ((1, 256), (3, 288)), ((1, 256), (3, 288), (3, 320))),  # Fig. 18
        c=(((1, 192),), ((1, 192), ((1, 3), 224), ((3, 1), 256))),  # Fig. 19
    ),
}
FIG_15 = (5, 10, 5)  # how many blocks A, B and C
SLIM_BLOCKS = (10, 20, 10)
SLIM_WIDTH = 1536  # of the release's last convolution

Release = Literal["paper", "slim"]
RELEASES = get_args(Release)


class Scale(nn.Module):
    """factor * x (Fig. 20). Keeps the shape."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x

    def extra_repr(self) -> str:
        return f"{self.factor:g}"


def out_channels(branches: tuple[Convs, ...]) -> int:
    return sum(convs[-1][1] for convs in branches)


def residual(width: int, branches: tuple[Convs, ...], scale: float, drop_path_rate: float) -> ResidualBlock:
    """relu(x + scale * 1x1(concat(branches(x)))); the 1x1 has a bias and no norm. Keeps (N, width, H, W)."""
    expansion = nn.Conv2d(out_channels(branches), width, 1)
    block = nn.Sequential(Branches(*(branch(width, *convs) for convs in branches)), expansion, Scale(scale))
    return ResidualBlock(block, nn.Identity(), drop_path_rate)


def reduction_b(width: int, branches: tuple[Convs, ...]) -> Branches:
    """Convolutions and a pooling, stride 2 (Fig. 12, 18). (N, width, 17, 17) -> (N, width + theirs, 8, 8)."""
    return Branches(*(branch(width, *convs, valid_stride=2) for convs in branches), nn.MaxPool2d(3, 2))


def openings(version: int, release: Release) -> tuple[list[nn.Module], list[nn.Module], int]:
    """What opens the first two stages, and the trunk's width behind it.

    (N, 64, 147, 147) -> (N, 192, 71, 71) -> (N, width, 35, 35).
    """
    if version == 2 and release == "paper":
        return [*stem_73(release)], [stem_35()], 384
    first = [nn.MaxPool2d(3, 2), conv_norm(64, 80, 1), conv_norm(80, 192, 3, pad=False)]  # Fig. 14
    if version == 1:
        return first, [conv_norm(192, 256, 3, 2, pad=False)], 256
    mixed = Branches(
        branch(192, (1, 96)),
        branch(192, (1, 48), (5, 64)),
        branch(192, (1, 64), (3, 96), (3, 96)),
        pool_branch(192, 64),
    )
    return first, [nn.MaxPool2d(3, 2), mixed], 320


class InceptionResNet(Backbone):
    """Inception-ResNet-v1 and v2, 299x299 images. Their stem is spread over stem, first and second stage.

    Blocks B and C of version 2 put out 1152 and 2144 channels. Fig. 17 and 19 print 1154 and 2048, which cannot be
    added to what Reduction-A and B hand them. The paper scales by 0.1 to 0.3; `scales` of A, B and C are the release's.
    `release` "slim" is the network of the authors' release, without its auxiliary head, of version 2 only. `slim_init`.
    """

    def __init__(
        self,
        version: int,
        release: Release = "paper",
        scales: tuple[float, float, float] = (0.17, 0.10, 0.20),
        num_classes: int = 1000,
        in_channels: int = 3,
        drop_rate: float = 0.2,
        drop_path_rate: float = 0.0,
    ) -> None:
        if version not in BANKS or release not in (RELEASES if version == 2 else ("paper",)):
            raise ValueError(
                f"version={version}, release={release!r}; give version 1 or 2 of the paper, or version 2 of slim"
            )
        slim, banks = release == "slim", BANKS[version]
        repeats = SLIM_BLOCKS if slim else FIG_15
        rates = iter([drop_path_rate * block / sum(repeats) for block in range(1, sum(repeats) + 1)])
        opening_71, opening_35, width = openings(version, release)
        stages = [nn.Sequential(*opening_71), nn.Sequential(*opening_35)]
        for _ in range(repeats[0]):
            stages[1].append(residual(width, banks.a, scales[0], next(rates)))
        stages.append(nn.Sequential(reduction_a(width, **banks.table_1)))
        width += banks.table_1["m"] + banks.table_1["n"]
        for _ in range(repeats[1]):
            stages[2].append(residual(width, banks.b, scales[1], next(rates)))
        stages.append(nn.Sequential(reduction_b(width, banks.reduction_b)))
        width += out_channels(banks.reduction_b)
        for _ in range(repeats[2] - slim):
            stages[3].append(residual(width, banks.c, scales[2], next(rates)))
        if slim:
            last = residual(width, banks.c, 1.0, next(rates))
            last.register_module("relu", nn.Identity())
            stages[3].extend([last, conv_norm(width, SLIM_WIDTH, 1)])
            width = SLIM_WIDTH
        super().__init__(
            stem=stem(in_channels),
            stages=stages,
            head=Head(width, num_classes, drop_rate=drop_rate),
            in_channels=in_channels,
            min_size=75,
            init=slim_init,
        )


def network(name: str, settings: Mapping[str, Any], *reported: Reported, **more: Any) -> None:
    shape: dict[str, Any] = {"input_size": (3, 299, 299), "recipe": RECIPE}
    register(Variant(name, InceptionResNet, PAPER, settings, reported, **shape, **more))


MAPS = Reported("Fig. 15", maps=(71, 35, 17, 8))
DEPARTURES = (
    Departure("a plain stem of five convolutions and two max-poolings", "the stem of Inception-v4", "Fig. 3"),
    Departure("a block of four branches makes 320 channels before the blocks A", "384 come from the stem", "Fig. 15"),
    Departure("10, 20 and 10 blocks A, B and C", "5, 10 and 5", "Fig. 15"),
    Departure("1088 and 2080 channels behind the reductions", "1152 and 2144", "Fig. 7 and 18"),
    Departure("the last block is neither scaled nor followed by a ReLU", "every block alike", "Fig. 15 and 20"),
    Departure("a 1x1 convolution to 1536 channels before the last pooling", "none", "Fig. 15"),
)

network("inception_resnet_v1", {"version": 1}, MAPS, *crops((21.3, 5.5), (19.8, 4.6), (18.8, 4.3)))
V2_ERRORS = crops((19.9, 4.9), (18.7, 4.1), (17.8, 3.7))
FOUR = Reported(
    "Table 5", top1=100 - 16.4, top5=100 - 3.1, protocol="144 crops, 4 networks: inception_v4 and 3 of this"
)
network("inception_resnet_v2", {"version": 2}, MAPS, *V2_ERRORS, FOUR)
network(
    "inception_resnet_v2.slim",
    {"version": 2, "release": "slim"},
    Reported("1707.07012, Table 2", params=55.8e6, madds=13.2e9),
    departures=DEPARTURES,
)
