"""ZFNet (Zeiler, Fergus, 2013): AlexNet with smaller, denser first filters, found by looking. Source: Fig. 3."""

from torch import nn

from backbones.backbone import Backbone
from backbones.layers import gaussian_init
from backbones.models.alexnet import GRID, fully_connected_head, local_response_norm
from backbones.records import NO_BRANCH, Paper, Recipe, Reported, Variant
from backbones.registry import register

PAPER = Paper(
    title="Visualizing and Understanding Convolutional Networks",
    authors="Zeiler, Fergus",
    year=2013,
    venue="ECCV 2014",
    arxiv="1311.2901",
    builds_on=("alexnet",),
)

FIGURE_3 = (384, 384, 256)  # channels of layers 3, 4 and 5
TABLE_3_B = (512, 1024, 512)  # the variant (b) of Table 2, "layers 3,4,5: 512,1024,512 maps"


class ZFNet(Backbone):
    """ZFNet, 224x224 images; every map of a layer sees every map below.

    Paddings are those that give the sizes of Figure 3; the contrast normalisation has AlexNet's constants, since the
    paper prints none. Weights: the paper prints "initialized to 10^-2" (Sec. 3),
    which for all weights alike would never break their symmetry; N(0, 0.01^2) as in AlexNet, biases 0.
    """

    def __init__(
        self, wide: bool = False, num_classes: int = 1000, in_channels: int = 3, drop_rate: float = 0.5
    ) -> None:
        third, fourth, fifth = TABLE_3_B if wide else FIGURE_3
        stages = [
            nn.Sequential(nn.Conv2d(in_channels, 96, 7, 2, padding=1), nn.ReLU(), pool(1), local_response_norm()),
            nn.Sequential(nn.Conv2d(96, 256, 5, 2), nn.ReLU(), pool(1), local_response_norm()),
            nn.Sequential(nn.Conv2d(256, third, 3, padding=1), nn.ReLU()),
            nn.Sequential(nn.Conv2d(third, fourth, 3, padding=1), nn.ReLU()),
            nn.Sequential(nn.Conv2d(fourth, fifth, 3, padding=1), nn.ReLU(), pool(0)),
        ]
        super().__init__(
            stem=nn.Identity(),
            stages=stages,
            head=fully_connected_head(fifth, GRID, num_classes, drop_rate),
            in_channels=in_channels,
            min_size=53,
            init=gaussian_init(0.01),
        )


def pool(padding: int) -> nn.Module:
    """Overlapping max-pooling; contrast normalisation comes after it, not before as in AlexNet (Fig. 3)."""
    return nn.MaxPool2d(3, 2, padding)


RECIPE = Recipe(
    source="Sec. 3",
    epochs=70,
    batch_size=128,
    lr=0.01,
    momentum=0.9,
    sched="plateau",
    decay_rate=0.1,
    crop="side",
    scale=(256 / 224, 256 / 224),
    crop_from="square",
    fixed_crops=True,
    hflip=0.5,
    max_filter_rms=0.1,
    deviations=(
        "the mean and deviation of each channel in place of the mean of each pixel",
        "the rate falls after 10 epochs without progress, where the authors lowered it by hand",
    ),
    elsewhere=dict.fromkeys(("sched", "decay_rate"), "AlexNet's; the paper prints that the rate is lowered by hand"),
)

register(
    Variant(
        "zfnet",
        ZFNet,
        PAPER,
        settings={},
        recipe=RECIPE,
        cannot=NO_BRANCH,
        reported=(
            Reported("Fig. 3", maps=(55, 13, 13, 13, 6)),
            Reported("Table 2", top1=100 - 38.4, top5=100 - 16.5, protocol="10 crops"),
            Reported("Table 2", top1=100 - 36.7, top5=100 - 15.3, protocol="10 crops, 5 networks"),
        ),
    ),
    Variant(
        "zfnet_b",
        ZFNet,
        PAPER,
        settings={"wide": True},
        recipe=RECIPE,
        cannot=NO_BRANCH,
        reported=(
            Reported("Fig. 3", maps=(55, 13, 13, 13, 6)),
            Reported("Table 2", top1=100 - 37.5, top5=100 - 16.0, protocol="10 crops"),
            Reported("Table 2", top1=100 - 36.0, top5=100 - 14.7, protocol="10 crops, 6 networks: this and 5 of zfnet"),
        ),
    ),
)
