"""VGG (Simonyan, Zisserman, 2014): nothing but 3x3 convolutions, deeper and deeper. Source: Table 1."""

from torch import nn

from backbones.backbone import Backbone
from backbones.models.alexnet import fully_connected_head, local_response_norm
from backbones.records import NO_BRANCH, Departure, Paper, Recipe, Reported, Variant
from backbones.registry import register

PAPER = Paper(
    title="Very Deep Convolutional Networks for Large-Scale Image Recognition",
    authors="Simonyan, Zisserman",
    year=2014,
    venue="ICLR 2015",
    arxiv="1409.1556",
    builds_on=("alexnet", "zfnet"),
)

TABLE_1 = {  # column -> the convolutions between poolings: 3 is 3x3, 1 is 1x1, L is local response normalisation
    "A": ("3", "3", "33", "33", "33"),
    "A-LRN": ("3L", "3", "33", "33", "33"),
    "B": ("33", "33", "33", "33", "33"),
    "C": ("33", "33", "331", "331", "331"),
    "D": ("33", "33", "333", "333", "333"),
    "E": ("33", "33", "3333", "3333", "3333"),
}
CHANNELS = (64, 128, 256, 512, 512)


def glorot_init(module: nn.Module) -> None:
    """Glorot and Bengio's uniform weights, biases 0.

    The paper first drew weights of variance 10^-2, which needed a trained network A to start from, and found after
    the submission that Glorot's rule needs none (Sec. 3.1).
    """
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class VGG(Backbone):
    """VGG, 224x224 images. A stage ends with its 2x2 max-pooling. `glorot_init`."""

    def __init__(
        self,
        column: str,
        batch_norm: bool = False,
        num_classes: int = 1000,
        in_channels: int = 3,
        drop_rate: float = 0.5,
    ) -> None:
        if column not in TABLE_1:
            raise ValueError(f"column={column!r} of Table 1; give one of {', '.join(TABLE_1)}")
        stages, channels = [], in_channels
        for kinds, width in zip(TABLE_1[column], CHANNELS, strict=True):
            stage = nn.Sequential()
            for kind in kinds:
                if kind == "L":
                    stage.append(local_response_norm())
                    continue
                stage.append(nn.Conv2d(channels, width, int(kind), padding=int(kind) // 2))
                if batch_norm:
                    stage.append(nn.BatchNorm2d(width))
                stage.append(nn.ReLU())
                channels = width
            stages.append(stage.append(nn.MaxPool2d(2)))
        super().__init__(
            stem=nn.Identity(),
            stages=stages,
            head=fully_connected_head(channels, 7, num_classes, drop_rate),
            in_channels=in_channels,
            min_size=32,
            init=glorot_init,
        )


RECIPE = Recipe(
    source="Sec. 3.1",
    epochs=74,
    batch_size=256,
    lr=0.01,
    momentum=0.9,
    weight_decay=0.0005,
    sched="plateau",
    decay_rate=0.1,
    crop="side",
    scale=(256 / 224, 512 / 224),
    hflip=0.5,
    lighting=0.1,
    deviations=(
        "scale jitter from the start, where the paper fine-tunes a network trained at a fixed scale",
        "Glorot's initialisation for every depth, with which the paper replaces its start from a trained network A; "
        "--grow-from makes that start",
        "the mean and deviation of each channel in place of the mean colour",
        "the rate falls after 10 epochs without progress; the paper does not say how long it waits",
    ),
    elsewhere={"lighting": "AlexNet's, to which Sec. 3.1 refers"},
)
BATCH_NORM = Departure("batch normalisation before every ReLU of a convolution", "no normalisation", "Sec. 2.1")
DENSE = "dense evaluation"


def errors(top1: float, top5: float, test_scale: int, train_scale: str) -> Reported:
    protocol = f"{DENSE} at one scale Q={test_scale} and its mirror image, trained at S={train_scale}"
    return Reported("Table 3", top1=100 - top1, top5=100 - top5, protocol=protocol)


def all_crops(source: str, top1: float, top5: float, networks: str) -> Reported:
    protocol = f"150 crops and {DENSE} at three scales, {networks}"
    return Reported(source, top1=100 - top1, top5=100 - top5, protocol=protocol)


NETWORKS = {  # name -> column, what is printed of it
    "vgg11": ("A", 133e6, [errors(29.6, 10.4, 256, "256")]),
    "vgg11_lrn": ("A-LRN", 133e6, [errors(29.7, 10.5, 256, "256")]),
    "vgg13": ("B", 133e6, [errors(28.7, 9.9, 256, "256")]),
    "vgg16_c": (
        "C",
        134e6,
        [errors(28.1, 9.4, 256, "256"), errors(28.1, 9.3, 384, "384"), errors(27.3, 8.8, 384, "[256;512]")],
    ),
    "vgg16": (
        "D",
        138e6,
        [
            errors(27.0, 8.8, 256, "256"),
            errors(26.8, 8.7, 384, "384"),
            errors(25.6, 8.1, 384, "[256;512]"),
            all_crops("Table 5", 24.4, 7.2, "one network"),
        ],
    ),
    "vgg19": (
        "E",
        144e6,
        [
            errors(27.3, 9.0, 256, "256"),
            errors(26.9, 8.7, 384, "384"),
            errors(25.5, 8.0, 384, "[256;512]"),
            all_crops("Table 5", 24.4, 7.1, "one network"),
            all_crops("Table 6", 23.7, 6.8, "2 networks: vgg16 and this"),
        ],
    ),
}
QUOTED = {"vgg16": 15.3e9, "vgg19": 19.6e9}  # by ResNet, when it compares

for name, (column, params, claims) in NETWORKS.items():
    size = Reported("Table 2", params=params, maps=(112, 56, 28, 14, 7))
    quoted = [Reported("1512.03385, Sec. 4.1", madds=QUOTED[name])] if name in QUOTED else []
    register(
        Variant(
            name,
            VGG,
            PAPER,
            {"column": column},
            reported=(size, *quoted, *claims),
            recipe=RECIPE,
            cannot=NO_BRANCH,
        )
    )
    if column in "ABDE":
        register(
            Variant(
                f"{name}_bn",
                VGG,
                PAPER,
                {"column": column, "batch_norm": True},
                departures=(BATCH_NORM,),
                recipe=RECIPE,
                cannot=NO_BRANCH,
            )
        )
