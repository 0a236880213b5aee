"""ResNeXt (Xie, Girshick, Dollar, Tu, He, 2016): many narrow branches of one shape, summed. Source: Tables 1 to 4."""

from typing import NamedTuple

from torch import nn

from backbones.backbone import Backbone
from backbones.layers import Head, he_init
from backbones.models.resnet import BOTTLENECK_FROM, CHANNELS, EXPANSION, TABLE_1, Plan, conv_norm
from backbones.records import Departure, Paper, Recipe, Reported, Variant
from backbones.registry import register

PAPER = Paper(
    title="Aggregated Residual Transformations for Deep Neural Networks",
    authors="Xie, Girshick, Dollar, Tu, He",
    year=2016,
    venue="CVPR 2017",
    arxiv="1611.05431",
    builds_on=("resnet",),
)


class Row(NamedTuple):
    """A network of Tables 1, 3 and 4."""

    depth: int
    c: int  # cardinality: how many branches a block has
    d: int  # their width in conv2; it doubles wherever the map halves
    size: str  # where the next two are printed
    params: float | None
    madds: float
    top1: float  # errors in percent
    top5: float | None = None
    gap: str = ""  # why our count differs


ABOUT = "printed for several templates together, which keep the complexity only approximately (Sec. 3.4)"
NETWORKS = (
    Row(50, 1, 64, "Table 1", 25.5e6, 4.1e9, 23.9),  # ResNet's own bottleneck
    Row(50, 2, 40, "Fig. 5", 25e6, 4.1e9, 23.0),
    Row(50, 4, 24, "Fig. 5", 25e6, 4.1e9, 22.6),
    Row(50, 8, 14, "Fig. 5", 25e6, 4.1e9, 22.3, gap=ABOUT),
    Row(50, 32, 4, "Table 1", 25.0e6, 4.2e9, 22.2),
    Row(101, 1, 64, "Fig. 5", 44e6, 7.8e9, 22.0, 6.0),
    Row(101, 2, 40, "Fig. 5", 44e6, 7.8e9, 21.7),
    Row(101, 4, 24, "Fig. 5", 44e6, 7.8e9, 21.4),
    Row(101, 8, 14, "Fig. 5", 44e6, 7.8e9, 21.3, gap=ABOUT),
    Row(101, 32, 4, "Fig. 5", 44e6, 7.8e9, 21.2, 5.6, gap=ABOUT),
    Row(101, 1, 100, "Sec. 5.1", None, 15e9, 21.3, 5.7),
    Row(101, 2, 64, "Sec. 5.1", None, 15e9, 20.7, 5.5),
    Row(101, 64, 4, "Sec. 5.1", None, 15e9, 20.4, 5.3, gap=ABOUT),
)
DEPTHS = [depth for depth in TABLE_1 if depth >= BOTTLENECK_FROM]


def plan_of(
    blocks: tuple[int, ...], strides: tuple[int, ...], cardinality: int, width: int, drop_path_rate: float
) -> Plan:
    """Fig. 3(c): the C branches of d channels are one bottleneck, whose 3x3 convolution has C groups and strides."""
    if cardinality < 1 or width < 1:
        raise ValueError(f"cardinality={cardinality}, width={width}; give 1 or more, such as 32 branches of 4 channels")
    channels = tuple(c * EXPANSION for c in CHANNELS[: len(blocks)])
    return Plan(blocks, channels, strides, True, "3x3", "B", drop_path_rate, cardinality, width)


class ResNeXt(Backbone):
    """ResNeXt for 224x224 images. conv1 is the stem; conv2 to conv5 the stages, the max-pooling in conv2.

    `cardinality` is C, `width` the d of the paper's C x d templates. `he_init` (Sec. 4); the fan-in of a grouped
    convolution is that of one group, as it is where the branches stand apart, Fig. 3(a) and (b).
    """

    def __init__(
        self,
        depth: int = 50,
        cardinality: int = 32,
        width: int = 4,
        num_classes: int = 1000,
        in_channels: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        if depth not in DEPTHS:
            raise ValueError(f"depth={depth}; give one of {', '.join(map(str, DEPTHS))}")
        plan = plan_of(TABLE_1[depth], (1, 2, 2, 2), cardinality, width, drop_path_rate)
        stages = plan.stages(64)
        stages[0].insert(0, nn.MaxPool2d(3, 2, 1))
        super().__init__(
            stem=nn.Sequential(*conv_norm(in_channels, 64, 7, 2), nn.ReLU()),
            stages=stages,
            head=Head(plan.channels[-1], num_classes, drop_rate=drop_rate),
            in_channels=in_channels,
            min_size=32,
            init=he_init,
        )


class CifarResNeXt(Backbone):
    """ResNeXt for 32x32 images: three stages of (depth - 2) / 9 blocks (Sec. 5.3). `he_init`, as `ResNeXt`."""

    def __init__(
        self,
        depth: int = 29,
        cardinality: int = 8,
        width: int = 64,
        num_classes: int = 10,
        in_channels: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        repeats, rest = divmod(depth - 2, 9)
        if rest or repeats < 1:
            raise ValueError(f"depth={depth}; give 9n + 2, such as 29")
        plan = plan_of((repeats,) * 3, (1, 2, 2), cardinality, width, drop_path_rate)
        super().__init__(
            stem=nn.Sequential(*conv_norm(in_channels, 64, 3), nn.ReLU()),
            stages=plan.stages(64),
            head=Head(plan.channels[-1], num_classes, drop_rate=drop_rate),
            in_channels=in_channels,
            min_size=4,
            init=he_init,
        )


CODE = "the authors' code"
RECIPE = Recipe(
    source="Sec. 4",
    epochs=100,
    batch_size=256,
    lr=0.1,
    momentum=0.9,
    nesterov=True,
    weight_decay=0.0001,
    sched="step",
    milestones=(0.3, 0.6, 0.9),
    decay_rate=0.1,
    crop="area",
    scale=(0.08, 1.0),
    hflip=0.5,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    lighting=0.1,
    deviations=("changed colours are clipped at black and white, which the Torch code they are from does not do",),
    elsewhere=dict.fromkeys(
        (
            *("epochs", "nesterov", "milestones", "scale", "hflip"),
            *("brightness", "contrast", "saturation", "lighting"),
        ),
        CODE,
    ),
)
CIFAR_RECIPE = Recipe(
    source="Appendix A",
    epochs=300,
    batch_size=128,
    lr=0.1,
    momentum=0.9,
    nesterov=True,
    weight_decay=0.0005,
    sched="step",
    milestones=(0.5, 0.75),
    decay_rate=0.1,
    crop="pad",
    crop_pad=4,
    hflip=0.5,
    elsewhere={"nesterov": CODE},
)
ONE_CROP = "single centre crop"
MORE = {  # what Table 5 prints of the largest network, and what NASNet quotes of it
    "resnext101_64x4d": (
        Reported("Table 5", input_size=320, top1=100 - 19.1, top5=100 - 4.4, protocol=ONE_CROP),
        Reported("Sec. 5.1", top1=100 - 17.7, top5=100 - 3.7, protocol="dense evaluation at several scales"),
        Reported("1707.07012, Table 2", input_size=320, params=83.6e6, madds=31.5e9),
    )
}

for row in NETWORKS:
    name = f"resnext{row.depth}_{row.c}x{row.d}d"
    settings = {"depth": row.depth, "cardinality": row.c, "width": row.d}
    size = Reported(row.size, params=row.params, madds=row.madds, maps=(56, 28, 14, 7), gap=row.gap)
    errors = Reported(
        "Table 4" if row.top5 else "Table 3",
        top1=100 - row.top1,
        top5=row.top5 and 100 - row.top5,
        protocol=ONE_CROP,
    )
    register(Variant(name, ResNeXt, PAPER, settings, (size, errors, *MORE.get(name, ())), recipe=RECIPE))
register(
    Variant(
        "resnext101_32x8d.tv",
        ResNeXt,
        PAPER,
        {"depth": 101, "cardinality": 32, "width": 8},
        departures=(Departure("32 branches of 8 channels", "at this size 1x100d, 2x64d and 64x4d", "Table 4"),),
        aliases=("resnext101_32x8d",),
    )
)

TABLE_7 = {8: (34.4e6, 3.65, 17.77), 16: (68.1e6, 3.58, 17.31)}  # C of C x 64d -> params, errors on CIFAR-10 and -100


def cifar_errors(cardinality: int) -> tuple[Reported, ...]:
    if cardinality not in TABLE_7:
        return ()  # Fig. 7 draws the others
    params, ten, hundred = TABLE_7[cardinality]
    how = "one view, mean of 10 runs"
    return (
        Reported("Table 7", params=params, top1=100 - ten, data="CIFAR-10 test", protocol=how),
        Reported("Table 7", top1=100 - hundred, data="CIFAR-100 test", protocol=how),
    )


for c in (1, 8, 16):
    register(
        Variant(
            f"resnext29_{c}x64d_cifar",
            CifarResNeXt,
            PAPER,
            {"cardinality": c, "width": 64},
            (Reported("Sec. 5.3", maps=(32, 16, 8)), *cifar_errors(c)),
            recipe=CIFAR_RECIPE,
            input_size=(3, 32, 32),
            crop=1.0,
            num_classes=10,
        )
    )
