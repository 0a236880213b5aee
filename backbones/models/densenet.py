"""DenseNet (Huang, Liu, van der Maaten, Weinberger, 2016): each layer reads all maps before it. Source: Tables 1, 2."""

from dataclasses import replace
from math import floor
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from backbones.backbone import Backbone
from backbones.layers import Head, recomputed
from backbones.records import Paper, Recipe, Reported, Variant
from backbones.registry import register

PAPER = Paper(
    title="Densely Connected Convolutional Networks",
    authors="Huang, Liu, van der Maaten, Weinberger",
    year=2016,
    venue="CVPR 2017",
    arxiv="1608.06993",
    builds_on=("resnet",),
)

TABLE_1 = {  # depth -> layers in dense blocks 1 to 4
    121: (6, 12, 24, 16),
    169: (6, 12, 32, 32),
    201: (6, 12, 48, 32),
    264: (6, 12, 64, 48),
    161: (6, 12, 36, 24),  # of earlier versions, with k = 48, where the last one has 264
}
BOTTLENECK = 4  # Sec. 3: the 1x1 convolution of a layer puts out 4k maps
CIFAR_BLOCKS = 3
CIFAR_STEM = 16  # maps before the first block; 2k in every DenseNet-BC


def densenet_init(module: nn.Module) -> None:
    """Convolutions N(0, 2 / fan_out), as the authors' release reads He et al. (Sec. 4.2); the classifier torch's own
    uniform weights, biases 0."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


class NormConv(nn.Module):
    """conv(relu(norm([x_0, x_1, ...]))) of the concatenated maps. (N, C_i, H, W), ... -> (N, out_channels, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.norm, self.relu = nn.BatchNorm2d(in_channels), nn.ReLU()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)

    def forward(self, *maps: Tensor) -> Tensor:
        x = torch.cat(maps, 1) if len(maps) > 1 else maps[0]
        return self.conv(self.relu(self.norm(x)))


class DenseLayer(nn.Module):
    """H([x_0, ..., x_l-1]), eq. 2: BN-ReLU-conv3x3, with BN-ReLU-conv1x1 before it in a bottleneck.

    (N, C_i, H, W), ... -> (N, growth_rate, H, W). What the first convolution reads has as many values as all maps
    together: `memory_efficient` computes it again in the backward pass, so that memory grows linearly with depth.
    """

    def __init__(self, in_channels: int, plan: "Plan") -> None:
        super().__init__()
        k, width = plan.growth_rate, BOTTLENECK * plan.growth_rate
        self.memory_efficient = plan.memory_efficient
        self.first = NormConv(in_channels, width, 1) if plan.bottleneck else NormConv(in_channels, k, 3)
        self.rest = nn.Sequential(nn.Dropout(plan.drop_rate))
        if plan.bottleneck:
            self.rest.extend([NormConv(width, k, 3), nn.Dropout(plan.drop_rate)])

    def forward(self, *maps: Tensor) -> Tensor:
        recompute = self.memory_efficient and self.training and torch.is_grad_enabled()
        return self.rest(recomputed(self.first, *maps) if recompute else self.first(*maps))


class DenseBlock(nn.Sequential):
    """[x, H_1(x), H_2([x, H_1(x)]), ...]: a list of maps that grows. (N, C, H, W) -> (N, C + layers * k, H, W)."""

    def __init__(self, in_channels: int, layers: int, plan: "Plan") -> None:
        super().__init__(*(DenseLayer(in_channels + i * plan.growth_rate, plan) for i in range(layers)))

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for layer in self:
            maps.append(layer(*maps))
        return torch.cat(maps, 1)


class Plan(NamedTuple):
    """The dense blocks of one network, in the paper's words."""

    layers: tuple[int, ...]  # per block
    growth_rate: int  # k: maps that each layer adds
    bottleneck: bool  # B: a 1x1 convolution in every layer
    compression: float  # theta: share of the maps that a transition keeps; less than 1 is C
    drop_rate: float  # after every convolution but the first
    memory_efficient: bool

    def stages(self, channels: int) -> tuple[list[nn.Sequential], int]:
        """One per block, which the transition opens and the last norm closes; and the maps that come out."""
        if self.growth_rate < 1 or not 0 < self.compression <= 1:
            raise ValueError(
                f"growth_rate={self.growth_rate}, compression={self.compression}; "
                "give a growth_rate of 1 or more and a compression above 0, up to 1"
            )
        stages = []
        for i, layers in enumerate(self.layers):
            stage = nn.Sequential()
            if i:
                stage.append(self.transition(channels, kept := floor(self.compression * channels)))
                channels = kept
            stages.append(stage.append(DenseBlock(channels, layers, self)))
            channels += layers * self.growth_rate
        stages[-1].extend([nn.BatchNorm2d(channels), nn.ReLU()])
        return stages, channels

    def transition(self, channels: int, kept: int) -> nn.Sequential:
        """BN-ReLU-conv1x1, then the mean of 2x2. (N, channels, H, W) -> (N, kept, H/2, W/2)."""
        return nn.Sequential(NormConv(channels, kept, 1), nn.Dropout(self.drop_rate), nn.AvgPool2d(2))


class DenseNet(Backbone):
    """DenseNet-BC for 224x224 images: four dense blocks, the transitions halve the maps. `densenet_init`.

    `drop_rate` is inside: after every convolution but the first (Sec. 4.2). The paper uses it, at 0.2, only where it
    trains without augmentation. `memory_efficient` trains in less memory, with the same gradients.
    """

    def __init__(
        self,
        depth: int,
        growth_rate: int = 32,
        memory_efficient: bool = False,
        num_classes: int = 1000,
        in_channels: int = 3,
        drop_rate: float = 0.0,
    ) -> None:
        if depth not in TABLE_1:
            raise ValueError(f"depth={depth}; give one of {', '.join(map(str, sorted(TABLE_1)))}")
        plan = Plan(TABLE_1[depth], growth_rate, True, 0.5, drop_rate, memory_efficient)
        stages, num_features = plan.stages(2 * growth_rate)
        stages[0].insert(0, nn.MaxPool2d(3, 2, 1))
        conv = nn.Conv2d(in_channels, 2 * growth_rate, 7, 2, 3, bias=False)
        super().__init__(
            stem=nn.Sequential(conv, nn.BatchNorm2d(2 * growth_rate), nn.ReLU()),
            stages=stages,
            head=Head(num_features, num_classes),
            in_channels=in_channels,
            min_size=32,
            init=densenet_init,
        )


class CifarDenseNet(Backbone):
    """DenseNet for 32x32 images: three dense blocks of (depth - 4) / 3 convolutions (Sec. 3). As `DenseNet`."""

    def __init__(
        self,
        depth: int,
        growth_rate: int,
        bottleneck: bool = False,
        compression: float = 1.0,
        memory_efficient: bool = False,
        num_classes: int = 10,
        in_channels: int = 3,
        drop_rate: float = 0.0,
    ) -> None:
        convs = CIFAR_BLOCKS * (2 if bottleneck else 1)
        layers, rest = divmod(depth - 4, convs)
        if rest or layers < 1:
            raise ValueError(f"depth={depth}; give {convs}n + 4, such as {12 * convs + 4}")
        plan = Plan((layers,) * CIFAR_BLOCKS, growth_rate, bottleneck, compression, drop_rate, memory_efficient)
        channels = 2 * growth_rate if bottleneck and compression < 1 else CIFAR_STEM
        stages, num_features = plan.stages(channels)
        super().__init__(
            stem=nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
            stages=stages,
            head=Head(num_features, num_classes),
            in_channels=in_channels,
            min_size=4,
            init=densenet_init,
        )


RECIPE = Recipe(
    source="Sec. 4.2",
    epochs=90,
    batch_size=256,
    lr=0.1,
    momentum=0.9,
    nesterov=True,
    weight_decay=0.0001,
    sched="step",
    milestones=(30 / 90, 60 / 90),
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
        ("crop", "scale", "hflip", "brightness", "contrast", "saturation", "lighting"),
        "fb.resnet.torch, whose augmentation the paper adopts",
    ),
)
LARGEST_RECIPE = replace(
    RECIPE, source="Sec. 4.2 of earlier versions", epochs=100, batch_size=128, milestones=(0.3, 0.6, 0.9)
)
CIFAR_RECIPE = Recipe(
    source="Sec. 4.2",
    epochs=300,
    batch_size=64,
    lr=0.1,
    momentum=0.9,
    nesterov=True,
    weight_decay=0.0001,
    sched="step",
    milestones=(0.5, 0.75),
    decay_rate=0.1,
    crop="pad",
    crop_pad=4,
    hflip=0.5,
    elsewhere={"crop_pad": "fb.resnet.torch; the paper prints shifts and mirror images, and no figure"},
)
NO_BRANCH = {"drop_path_rate": "no residual branches: later layers read what a dropped one would have put out"}


PLAIN, PLUS = "trained without augmentation, dropout 0.2", "trained with shifts and mirroring"
COLUMNS = (  # of the errors in Table 2
    ("CIFAR-10 test", PLAIN),
    ("CIFAR-10 test", PLUS),
    ("CIFAR-100 test", PLAIN),
    ("CIFAR-100 test", PLUS),
    ("SVHN test", PLAIN),
)
TABLE_2 = {  # kind, L, k -> parameters, test errors in percent
    ("", 40, 12): (1.0e6, 7.00, 5.24, 27.55, 24.42, 1.79),
    ("", 100, 12): (7.0e6, 5.77, 4.10, 23.79, 20.20, 1.67),
    ("", 100, 24): (27.2e6, 5.83, 3.74, 23.42, 19.25, 1.59),
    ("bc_", 100, 12): (0.8e6, 5.92, 4.51, 24.15, 22.27, 1.76),
    ("bc_", 250, 24): (15.3e6, 5.19, 3.62, 19.64, 17.60, 1.74),
    ("bc_", 190, 40): (25.6e6, None, 3.46, None, 17.18, None),
    ("c_", 40, 12): (),  # Fig. 4 draws DenseNet-C and prints no sizes
}
SETTINGS: dict[str, dict[str, Any]] = {
    "": {},
    "bc_": {"bottleneck": True, "compression": 0.5},
    "c_": {"compression": 0.5},
}
ROUNDED = "0.8 M is printed, to which 769,162 rounds"
TABLE_3 = {  # depth -> top-1 and top-5 errors with one crop, then with ten
    121: (25.02, 7.71, 23.61, 6.66),
    169: (23.80, 6.85, 22.08, 5.92),
    201: (22.58, 6.34, 21.46, 5.54),
    264: (22.15, 6.12, 20.80, 5.29),
    161: (22.33, 6.15, 20.85, 5.30),
}
QUOTED = {169: (14e6, 3.5e9), 264: (34e6, 6.0e9)}  # by EfficientNet, when it compares
OTHER_COUNT = "multiply-adds quoted by another paper, which does not say how it counts"

for depth, (one1, one5, ten1, ten5) in TABLE_3.items():
    table = "Table 3 of earlier versions" if depth == 161 else "Table 3"
    claims = [
        Reported("Table 1", maps=(56, 28, 14, 7)),
        Reported(table, top1=100 - one1, top5=100 - one5, protocol="one crop"),
        Reported(table, top1=100 - ten1, top5=100 - ten5, protocol="10 crops"),
    ]
    if depth in QUOTED:
        params, madds = QUOTED[depth]
        claims.append(Reported("1905.11946, Table 2", params=params, madds=madds, gap=OTHER_COUNT))
    largest = depth == 161
    settings = {"depth": depth, "growth_rate": 48} if largest else {"depth": depth}
    recipe = LARGEST_RECIPE if largest else RECIPE
    register(Variant(f"densenet{depth}", DenseNet, PAPER, settings, tuple(claims), recipe=recipe, cannot=NO_BRANCH))


for (kind, depth, k), line in TABLE_2.items():
    claims = [Reported("Sec. 3", maps=(32, 16, 8))]
    if line:
        claims.append(Reported("Table 2", params=line[0], gap=ROUNDED if line[0] == 0.8e6 else ""))
    for error, (data, how) in zip(line[1:], COLUMNS, strict=bool(line)):
        if error is not None:
            claims.append(Reported("Table 2", top1=100 - error, data=data, protocol=f"one view, {how}"))
    register(
        Variant(
            f"densenet_{kind}{depth}_{k}_cifar",
            CifarDenseNet,
            PAPER,
            {"depth": depth, "growth_rate": k, **SETTINGS[kind]},
            tuple(claims),
            recipe=CIFAR_RECIPE,
            input_size=(3, 32, 32),
            crop=1.0,
            num_classes=10,
            cannot=NO_BRANCH,
        )
    )
