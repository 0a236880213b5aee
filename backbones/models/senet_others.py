"""SENet (Hu et al., 2017): SE blocks in the other families; the residual ones are in `senet`. Source: Sec. 5.1."""

from dataclasses import replace
from typing import Any, Literal

from torch import nn

from backbones.backbone import Backbone
from backbones.layers import he_init
from backbones.models.inception_resnet import InceptionResNet
from backbones.models.inception_v2 import FIGURE_5, InceptionV2, InceptionV2Block
from backbones.models.mobilenet_v1 import DepthwiseSeparable, MobileNetV1
from backbones.models.preact_resnet import WARM_RECIPE, CifarPreActResNet, Unit
from backbones.models.senet import (
    ONE_CROP,
    RECIPE,
    REDUCTION,
    append_excitation,
    excitation,
    excite_branches,
)
from backbones.models.senet import PAPER as SENET_PAPER
from backbones.models.shufflenet_v1 import RECIPE as SHUFFLENET_RECIPE
from backbones.models.shufflenet_v1 import ShuffleNetV1
from backbones.models.wide_resnet import CIFAR_RECIPE, CifarWideResNet
from backbones.records import NO_BRANCH, Recipe, Reported, Variant
from backbones.registry import register

PAPER = replace(
    SENET_PAPER,
    builds_on=(
        "inception_v2",
        "inception_resnet",
        "preact_resnet",
        "wide_resnet",
        "mobilenet_v1",
        "shufflenet_v1",
        "senet",
    ),
)

# Where the SE blocks stand: on the concatenated map of an Inception module (Fig. 2); at the end of a residual branch,
# before the sum (Fig. 3), and so too before ShuffleNet's concatenation; behind the ReLU of a pointwise convolution.


def start_as_he(network: Backbone) -> None:
    """All of the network is drawn anew by `he_init`, as the paper starts its networks (Sec. 5.1)."""
    network.init = he_init
    network.apply(he_init)


class SEInceptionV2(InceptionV2):
    """BN-Inception with an SE block on the output of every Inception module, the striding 3c and 4e too. `he_init`."""

    def __init__(
        self, reduction: int = REDUCTION, num_classes: int = 1000, in_channels: int = 3, drop_rate: float = 0.0
    ) -> None:
        super().__init__("paper", False, num_classes, in_channels, drop_rate)
        channels, rows = 192, iter(FIGURE_5.values())
        for stage in self.stages:
            for name, block in list(stage.named_children()):
                if isinstance(block, InceptionV2Block):
                    channels = next(rows).out_channels(channels)
                    stage.register_module(name, nn.Sequential(block, excitation(channels, reduction)))


class SEInceptionResNetV2(InceptionResNet):
    """Inception-ResNet-v2 with an SE block at the end of every branch, behind the scaling. `he_init`.

    The paper does not say which of two networks of that name it excites: this is the released one, of 10, 20 and 10
    blocks, whose multiply-adds are the nearer to Table 2's.
    """

    def __init__(
        self,
        reduction: int = REDUCTION,
        num_classes: int = 1000,
        in_channels: int = 3,
        drop_rate: float = 0.2,
        drop_path_rate: float = 0.0,
    ) -> None:
        scales = (0.17, 0.10, 0.20)
        super().__init__(2, "slim", scales, num_classes, in_channels, drop_rate, drop_path_rate)
        excite_branches(self, reduction)
        start_as_he(self)


class SEMobileNetV1(MobileNetV1):
    """MobileNet with an SE block, without biases, after every pointwise convolution. `he_init`."""

    def __init__(
        self, reduction: int = REDUCTION, num_classes: int = 1000, in_channels: int = 3, drop_rate: float = 0.001
    ) -> None:
        super().__init__(num_classes=num_classes, in_channels=in_channels, drop_rate=drop_rate)
        for block in [m for m in self.modules() if isinstance(m, DepthwiseSeparable)]:
            append_excitation(block.pointwise, reduction, bias=False)
        start_as_he(self)


class SEShuffleNetV1(ShuffleNetV1):
    """ShuffleNet 1x of 3 groups with an SE block, without biases, at the end of every branch. `he_init`.

    Where the stride is 2 the block weighs what is put beside the pooled map. The printed 0.6 M parameters more fit
    this; 0.7 M would be needed for SE blocks behind the concatenation.
    """

    def __init__(
        self,
        reduction: int = REDUCTION,
        num_classes: int = 1000,
        in_channels: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__(3, 1.0, num_classes, in_channels, drop_rate, drop_path_rate)
        excite_branches(self, reduction, bias=False)


class SECifarPreActResNet(CifarPreActResNet):
    """Pre-activation ResNet for 32x32 images with an SE block behind the last convolution of a branch. `he_init`.

    Tables 4 and 5 compare with the errors of the pre-activation networks, which they call ResNet-110 and 164.
    """

    def __init__(
        self,
        depth: int,
        bottleneck: bool = True,
        shortcut: Literal["A", "B"] = "B",
        reduction: int = REDUCTION,
        num_classes: int = 10,
        in_channels: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        unit: Unit = "pre-activation"
        super().__init__(depth, bottleneck, shortcut, unit, num_classes, in_channels, drop_rate, drop_path_rate)
        excite_branches(self, reduction)


class SECifarWideResNet(CifarWideResNet):
    """WRN-depth-width with an SE block behind the last convolution of a branch. Its own start; gates by `he_init`."""

    def __init__(
        self,
        depth: int,
        width: float,
        reduction: int = REDUCTION,
        num_classes: int = 10,
        in_channels: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__(depth, width, num_classes, in_channels, drop_rate, drop_path_rate)
        excite_branches(self, reduction)


MOBILE_RECIPE = replace(
    RECIPE,
    source="Sec. 5.1, mobile setting",
    epochs=400,
    batch_size=256,
    lr=0.1,
    weight_decay=0.00004,
    sched="plateau",
    milestones=(),
    deviations=(
        "the rate falls after ten epochs without a better accuracy; the paper watches the loss and prints no patience",
        "about 400 epochs, taken as 400",
        SHUFFLENET_RECIPE.deviations[-1],
        RECIPE.deviations[-1],
    ),
    elsewhere=dict.fromkeys(
        ("weight_decay", "scale"), "1707.01083, ShuffleNet's, whose milder training the paper follows"
    ),
)
NEITHER = "13.2 G; the other network of the name, of its paper's figures, has 9.3 G before the SE blocks"
CUT_SHORT = "2.48 M, cut to one digit as the 1.8 M that Table 3 prints of ShuffleNet itself, which has 1.87 M"
FROM_140 = "138 M: Table 3 begins at 140 M, ShuffleNet's complexity for all groups, where 3 groups have 137 M"


def imagenet(table: int, top1: float, top5: float, **more: Any) -> Reported:
    """Errors in percent."""
    return Reported(f"Table {table}", top1=100 - top1, top5=100 - top5, protocol=ONE_CROP, **more)


register(
    Variant(
        "se_inception_v2",
        SEInceptionV2,
        PAPER,
        {},
        (imagenet(2, 24.23, 7.14, madds=2.04e9),),
        recipe=RECIPE,
        cannot=NO_BRANCH,
        aliases=("se_bn_inception",),
    ),
    Variant(
        "se_inception_resnet_v2",
        SEInceptionResNetV2,
        PAPER,
        {},
        (imagenet(2, 19.80, 4.79, madds=11.76e9, gap=NEITHER),),
        recipe=RECIPE,
        input_size=(3, 299, 299),
        crop=299 / 352,
    ),
    Variant(
        "se_mobilenet_v1",
        SEMobileNetV1,
        PAPER,
        {},
        (imagenet(3, 25.3, 7.7, params=4.7e6, madds=572e6),),
        recipe=MOBILE_RECIPE,
        cannot=NO_BRANCH,
    ),
    Variant(
        "se_shufflenet_v1_g3_x1_0",
        SEShuffleNetV1,
        PAPER,
        {},
        (imagenet(3, 31.0, 11.1, params=2.4e6, gap=CUT_SHORT), Reported("Table 3", madds=142e6, gap=FROM_140)),
        recipe=MOBILE_RECIPE,
    ),
)

CIFAR = "Sec. 5.1, additional datasets"
OWN_RATES = "rates, batch and weight decay of the network's own paper, which this paper follows and does not print"
TAKEN = (
    *("epochs", "batch_size", "lr", "momentum", "nesterov", "weight_decay", "sched", "milestones", "decay_rate"),
    *("warmup_epochs", "warmup_rate", "warmup_ramp", "pad_mode"),
)


def taken_from(recipe: Recipe, paper: str) -> Recipe:
    """How a CIFAR network is trained, which this paper takes over."""
    return replace(recipe, source=CIFAR, deviations=(OWN_RATES,), elsewhere=dict.fromkeys(TAKEN, paper))


RESNET_RECIPE = taken_from(WARM_RECIPE, "1603.05027")
WRN_RECIPE = taken_from(CIFAR_RECIPE, "1605.07146")
PREACT = (SECifarPreActResNet, RESNET_RECIPE)
CIFAR_NETWORKS: dict[str, tuple[type[Backbone], Recipe, dict[str, Any], float, float]] = {  # ..., errors in %
    "se_resnet110_cifar": (*PREACT, {"depth": 110, "bottleneck": False, "shortcut": "A"}, 5.21, 23.85),
    "se_resnet164_cifar": (*PREACT, {"depth": 164}, 4.39, 21.31),
    "se_wrn_16_8": (SECifarWideResNet, WRN_RECIPE, {"depth": 16, "width": 8}, 3.88, 19.14),
}
SHAPE: dict[str, Any] = {"input_size": (3, 32, 32), "crop": 1.0, "num_classes": 10}
for name, (build, recipe, settings, cifar10, cifar100) in CIFAR_NETWORKS.items():
    claims = (
        Reported("Table 4", top1=100 - cifar10, data="CIFAR-10 test", protocol="one view"),
        Reported("Table 5", top1=100 - cifar100, data="CIFAR-100 test", protocol="one view"),
    )
    register(Variant(name, build, PAPER, settings, claims, recipe=recipe, **SHAPE))
