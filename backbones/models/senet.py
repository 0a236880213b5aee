"""SENet (Hu, Shen, Albanie, Sun, Wu, 2017): channels are weighed by what the whole map holds. Source: Table 1.

Those of ResNet, ResNeXt and VGG; the paper's SE blocks in other families are in `senet_others`.
"""

from dataclasses import replace
from typing import Any, Literal

from torch import Tensor, nn

from backbones.backbone import Backbone
from backbones.layers import Head, he_init
from backbones.models.resnet import CHANNELS, EXPANSION, STRIDE_IN_3X3, TABLE_1, Plan, ResidualBlock, ResNet, conv_norm
from backbones.models.resnext import ResNeXt
from backbones.models.vgg import VGG
from backbones.records import NO_BRANCH, Departure, Paper, Recipe, Reported, Variant
from backbones.registry import register

PAPER = Paper(
    title="Squeeze-and-Excitation Networks",
    authors="Hu, Shen, Albanie, Sun, Wu",
    year=2017,
    venue="CVPR 2018",
    arxiv="1709.01507",
    builds_on=("resnet", "resnext", "vgg"),
)

REDUCTION = 16  # r: the C channels of a map are squeezed to C / r. Table 1: fc [16, 256], [32, 512], [64, 1024], ...


class SqueezeExcite(nn.Module):
    """x * sigmoid(excite(act(squeeze(mean(x))))), eq. 2 to 4. (N, channels, H, W) -> the same shape."""

    def __init__(self, channels: int, squeezed: int, bias: bool = True, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1, bias=bias)
        self.activation = activation()
        self.excite = nn.Conv2d(squeezed, channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.excite(self.activation(self.squeeze(x.mean((2, 3), keepdim=True))))
        return x * gate.sigmoid()


def excitation(channels: int, reduction: int, bias: bool = True) -> SqueezeExcite:
    """An SE block that squeezes to channels / reduction. Keeps the shape. `he_init`."""
    if not 1 <= reduction <= channels:
        raise ValueError(f"reduction={reduction}; give 1 to {channels}, the channels that are squeezed")
    return SqueezeExcite(channels, channels // reduction, bias).apply(he_init)


def append_excitation(part: nn.Sequential, reduction: int, bias: bool = True) -> nn.Sequential:
    """The part, with an SE block for the channels of its last convolution at its end. Keeps the shape."""
    channels = [m for m in part if isinstance(m, nn.Conv2d)][-1].out_channels
    return part.append(excitation(channels, reduction, bias))


def excite_branches(network: Backbone, reduction: int, bias: bool = True) -> None:
    """Every residual branch ends with an SE block: it acts before the summation with the identity (Fig. 3)."""
    for branch in [getattr(m, "branch", None) for m in network.modules()]:
        if isinstance(branch, nn.Sequential):
            append_excitation(branch, reduction, bias)


def pool_as_caffe(network: Backbone) -> None:
    """The max-pooling without padding, its last windows over the far edge: so in the authors' release (Caffe)."""
    for pool in network.modules():
        if isinstance(pool, nn.MaxPool2d):
            pool.padding, pool.ceil_mode = 0, True


class SEResNet(ResNet):
    """ResNet, stride in the first 1x1, with SE blocks in its branches. `he_init` (Sec. 5.1).

    `caffe_pool` is the max-pooling of the authors' release; without it, that of ResNet, padded on every side.
    """

    def __init__(
        self,
        depth: int,
        stride_in: Literal["1x1", "3x3"] = "1x1",
        caffe_pool: bool = True,
        reduction: int = REDUCTION,
        num_classes: int = 1000,
        in_channels: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__(depth, "B", stride_in, num_classes, in_channels, drop_rate, drop_path_rate)
        if caffe_pool:
            pool_as_caffe(self)
        excite_branches(self, reduction)


class SEResNeXt(ResNeXt):
    """ResNeXt with SE blocks in its branches. `caffe_pool` as in `SEResNet`. `he_init`."""

    def __init__(
        self,
        depth: int,
        cardinality: int = 32,
        width: int = 4,
        caffe_pool: bool = True,
        reduction: int = REDUCTION,
        num_classes: int = 1000,
        in_channels: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__(depth, cardinality, width, num_classes, in_channels, drop_rate, drop_path_rate)
        if caffe_pool:
            pool_as_caffe(self)
        excite_branches(self, reduction)


class SEVGG(VGG):
    """VGG with batch normalisation, and an SE block after the ReLU of every convolution (Sec. 3.3). `he_init`.

    A block of a stage is one convolution with what follows it.
    """

    def __init__(
        self,
        column: str,
        reduction: int = REDUCTION,
        num_classes: int = 1000,
        in_channels: int = 3,
        drop_rate: float = 0.5,
    ) -> None:
        super().__init__(column, True, num_classes, in_channels, drop_rate)
        for i, stage in enumerate(self.stages):
            *layers, pool = stage.children()
            triples = [nn.Sequential(*layers[k : k + 3]) for k in range(0, len(layers), 3)]
            self.stages[i] = nn.Sequential(*(append_excitation(t, reduction) for t in triples), pool)
        self.init = he_init
        self.apply(he_init)


class Plan154(Plan):
    """The blocks of SENet-154: those of a ResNeXt-152, 64x4d, but for what the appendix changes."""

    def block(self, in_channels: int, out_channels: int, stride: int, drop_path_rate: float) -> nn.Module:
        """(a) The first 1x1 is half as wide. (c) Projections that stride are 3x3. (N, C, H, W) -> as `ResNeXt`."""
        branch = nn.Sequential(
            *conv_norm(in_channels, out_channels // 2, 1),
            nn.ReLU(),
            *conv_norm(out_channels // 2, out_channels, 3, stride, self.groups),
            nn.ReLU(),
            *conv_norm(out_channels, out_channels, 1),
        )
        shortcut: nn.Module = nn.Identity()
        if stride > 1 or in_channels != out_channels:
            shortcut = nn.Sequential(*conv_norm(in_channels, out_channels, 3 if stride > 1 else 1, stride))
        return ResidualBlock(branch, shortcut, drop_path_rate)


class SENet154(Backbone):
    """SENet-154, 224x224 images: the authors' entry to ILSVRC 2017 (Sec. 5.4 and appendix).

    `caffe_pool` as in `SEResNet`. `he_init`.
    """

    def __init__(
        self,
        caffe_pool: bool = True,
        reduction: int = REDUCTION,
        num_classes: int = 1000,
        in_channels: int = 3,
        drop_rate: float = 0.2,
        drop_path_rate: float = 0.0,
    ) -> None:
        channels = tuple(c * EXPANSION for c in CHANNELS)
        stages = Plan154(TABLE_1[152], channels, (1, 2, 2, 2), True, "3x3", "B", drop_path_rate, groups=64).stages(128)
        stages[0].insert(0, nn.MaxPool2d(3, 2, 1))
        stem = [*conv_norm(in_channels, 64, 3, 2), nn.ReLU()]  # (b) three 3x3 in place of one 7x7
        stem += [*conv_norm(64, 64, 3), nn.ReLU(), *conv_norm(64, 128, 3), nn.ReLU()]
        super().__init__(
            stem=nn.Sequential(*stem),
            stages=stages,
            head=Head(channels[-1], num_classes, drop_rate=drop_rate),
            in_channels=in_channels,
            min_size=32,
            init=he_init,
        )
        if caffe_pool:
            pool_as_caffe(self)
        excite_branches(self, reduction)


RECIPE = Recipe(
    source="Sec. 5.1",
    epochs=100,
    batch_size=1024,
    lr=0.6,
    momentum=0.9,
    weight_decay=0.0001,
    sched="step",
    milestones=(0.3, 0.6, 0.9),
    decay_rate=0.1,
    crop="area",
    scale=(0.08, 1.0),
    hflip=0.5,
    deviations=("the mean and deviation of each channel in place of the mean colour",),
    elsewhere={
        "weight_decay": "1512.03385, ResNet's; the paper prints none",
        "scale": "1409.4842, GoogLeNet's; the paper prints that size and aspect are drawn, and no figures",
    },
)
RECIPE_154 = replace(
    RECIPE,
    source="Sec. 5.1 and appendix",
    batch_size=2048,
    lr=1.0,
    smoothing=0.1,
    deviations=(
        *RECIPE.deviations,
        "batch norms learn to the end; the paper freezes them for the last few epochs and does not say how many",
    ),
    elsewhere={**RECIPE.elsewhere, "smoothing": "1512.00567; the paper prints no figure"},
)
ONE_CROP = "single centre crop"
AT_320 = f"{ONE_CROP}, trained at 320"
SEVERAL = "several scales and crops, several networks, of which this is one"

TABLE_2: dict[str, tuple[type[Backbone], dict[str, Any], float, float, float]] = {  # name -> multiply-adds, errors in %
    "se_resnet50": (SEResNet, {"depth": 50}, 3.87e9, 23.29, 6.62),
    "se_resnet101": (SEResNet, {"depth": 101}, 7.60e9, 22.38, 6.07),
    "se_resnet152": (SEResNet, {"depth": 152}, 11.32e9, 21.57, 5.73),
    "se_resnext50_32x4d": (SEResNeXt, {"depth": 50}, 4.25e9, 21.10, 5.49),
    "se_resnext101_32x4d": (SEResNeXt, {"depth": 101}, 8.00e9, 20.70, 5.01),
    "se_vgg16": (SEVGG, {"column": "D"}, 15.48e9, 25.22, 7.70),
}
SIZES = {
    "se_resnet50": (Reported("Table 1", maps=(56, 28, 14, 7)), Reported("Table 10", params=28.1e6)),
    "se_resnext50_32x4d": (Reported("Table 1", maps=(56, 28, 14, 7)),),
}


PADDED_POOL = Departure("a max-pooling padded on every side", "one that overhangs the far edge (release)", "Table 1")

for name, (build, settings, madds, top1, top5) in TABLE_2.items():
    claim = Reported("Table 2", madds=madds, top1=100 - top1, top5=100 - top5, protocol=ONE_CROP)
    timms = name.replace("_", "", 1)  # what timm calls legacy is the authors' release
    plain: dict[str, Any] = {"cannot": NO_BRANCH} if build is SEVGG else {"aliases": (f"legacy_{timms}",)}
    register(Variant(name, build, PAPER, settings, (*SIZES.get(name, ()), claim), recipe=RECIPE, **plain))
    if build is not SEVGG:
        late = {"stride_in": "3x3"} if build is SEResNet else {}
        departs = (replace(STRIDE_IN_3X3, section="1512.03385, Table 1"),) if late else ()
        twin = {**settings, **late, "caffe_pool": False}
        departs, aliases = (*departs, PADDED_POOL), (timms,)
        register(Variant(f"{name}.timm", build, PAPER, twin, (), departs, RECIPE, aliases=aliases))
register(
    Variant(
        "senet154",
        SENet154,
        PAPER,
        {},
        reported=(
            Reported("Table 8", top1=100 - 18.68, top5=100 - 4.47, protocol=ONE_CROP),
            Reported("Table 8", input_size=320, top1=100 - 17.28, top5=100 - 3.79, protocol=ONE_CROP),
            Reported("Table 9", input_size=320, top1=100 - 16.88, top5=100 - 3.58, protocol=AT_320),
            Reported("Sec. 5.4", top5=100 - 2.251, data="ImageNet test", protocol=SEVERAL),
            Reported("1707.07012, Table 2", input_size=320, madds=42.3e9),
            Reported("1707.07012, Table 2", params=145.8e6, gap="the network that the authors released has 115.1 M"),
        ),
        recipe=RECIPE_154,
        aliases=("legacy_senet154",),
    ),
    Variant("senet154.timm", SENet154, PAPER, {"caffe_pool": False}, (), (PADDED_POOL,), RECIPE_154),
)
