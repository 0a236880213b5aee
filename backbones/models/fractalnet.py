"""FractalNet (Larsson, Maire, Shakhnarovich, 2016): one rule weaves columns of many depths. Source: Fig. 1, Sec. 4."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from backbones.backbone import Backbone
from backbones.layers import Head, RandomPath
from backbones.models.resnet import conv_norm
from backbones.records import Paper, Recipe, Reported, Variant
from backbones.registry import register

PAPER = Paper(
    title="FractalNet: Ultra-Deep Neural Networks without Residuals",
    authors="Larsson, Maire, Shakhnarovich",
    year=2016,
    venue="ICLR 2017",
    arxiv="1605.07648",
    builds_on=("resnet",),
)

CHANNELS = (1, 2, 4, 8, 8)  # of blocks 1 to 5, in widths of the first: 64, 128, 256, 512, 512 (Sec. 4)
IMAGENET_CHANNELS = (128, 256, 512, 1024)  # of blocks 1 to 4
NARROWING = 2  # note of Table 1: the 40 layers have columns of 128, 64, 32 and 16 channels in block 1, doubled later
SHARE_3X3 = 3 / 8  # of their filters, the rest is 1x1: the paper prints a mix; this one has its number of parameters
GLOBAL_SHARE = 0.5  # of the steps keep one column of the whole network; the others draw at every join


def xavier_init(module: nn.Module) -> None:
    """Uniform weights of variance 1 / fan_in, biases 0: "Xavier" (Sec. 4) as Caffe, which the authors used, has it."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        bound = (3 / module.weight[0].numel()) ** 0.5
        nn.init.uniform_(module.weight, -bound, bound)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class MixedConv(nn.Module):
    """3x3 filters beside 1x1 filters. (N, in_channels, H, W) -> (N, out_channels, H, W)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        large = int(SHARE_3X3 * out_channels)
        self.large = nn.Conv2d(in_channels, large, 3, padding=1, bias=False)
        self.small = nn.Conv2d(in_channels, out_channels - large, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.large(x), self.small(x)), 1)


class Plan(NamedTuple):
    """What all blocks of one network share."""

    columns: int  # C; column c has 2^(c - 1) convolutions per block
    column: int | None  # the only one to build
    thin: bool  # whether deeper columns are narrower
    drop_path_rate: float

    def columns_from(self, first: int) -> tuple[int, ...]:
        """The columns that are built, from this one on."""
        built = range(1, self.columns + 1) if self.column is None else (self.column,)
        return tuple(c for c in built if c >= first)

    def width(self, channels: int, column: int) -> int:
        return channels // NARROWING ** (column - 1) if self.thin else channels

    def unit(self, in_channels: int, out_channels: int, drop_rate: float) -> nn.Sequential:
        """Convolution, dropout, batch norm, ReLU. (N, in_channels, H, W) -> (N, out_channels, H, W)."""
        plain = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        conv = MixedConv(in_channels, out_channels) if self.thin else plain
        return nn.Sequential(conv, nn.Dropout(drop_rate), nn.BatchNorm2d(out_channels), nn.ReLU())


class Join(RandomPath):
    """The mean of the columns that end here, each pooled before. [(N, C_c, H, W), ...] -> (N, channels, H/s, W/s).

    Drop-path (Sec. 3) draws a new subnetwork for each step: either every join drops each of its columns with
    probability `rate`, but not all (local), or one column of the whole network is kept (global). The mean is over
    those that are left, and only what they need is computed. Evaluation joins all columns.
    """

    def __init__(self, first: int, channels: int, pool: nn.Module, plan: Plan) -> None:
        super().__init__()
        self.columns, self.of, self.rate = plan.columns_from(first), plan.columns, plan.drop_path_rate
        joined = plan.width(channels, first)
        widths = {c: plan.width(channels, c) for c in self.columns}
        self.pool = pool
        self.widen = nn.ModuleDict(
            {str(c): nn.Conv2d(w, joined, 1, bias=False) if w < joined else nn.Identity() for c, w in widths.items()}
        )

    def forward(self, fractal: nn.Module, x: Tensor) -> Tensor:
        kept = self.draw()
        maps = [self.widen[str(c)](self.pool(m)) for c, m in zip(kept, fractal(x, kept), strict=True)]
        return sum(maps[1:], start=maps[0]) / len(maps) if maps[1:] else maps[0]

    def draw(self) -> tuple[int, ...]:
        """The columns that this step keeps."""
        if not self.training or not self.rate or len(self.columns) == 1:
            return self.columns
        if self.draws.coin("global") < GLOBAL_SHARE * self.draws.progress:
            return (1 + int(self.draws.coin("column") * self.of),)
        rate = self.rate * self.draws.progress
        kept = tuple(c for c in self.columns if self.draws.coin((self.place, c)) >= rate)
        return kept or (self.columns[int(self.draws.coin((self.place, "kept")) * len(self.columns))],)

    def extra_repr(self) -> str:
        return f"columns={self.columns}, rate={self.rate:g}"


class Fractal(nn.Module):
    """conv(z) beside the columns of f(f(z)), f the fractal of the next columns. (N, C, H, W) -> maps of the `kept`."""

    def __init__(self, column: int, in_channels: int, channels: int, drop_rate: float, plan: Plan) -> None:
        super().__init__()
        self.column = column
        if column in plan.columns_from(column):
            self.conv = plan.unit(in_channels, plan.width(channels, column), drop_rate)
        if plan.columns_from(column + 1):
            joined = plan.width(channels, column + 1)
            self.first = FractalBlock(column + 1, in_channels, channels, drop_rate, nn.Identity(), plan)
            self.second = Fractal(column + 1, joined, channels, drop_rate, plan)

    def forward(self, z: Tensor, kept: tuple[int, ...]) -> list[Tensor]:
        shallow = [self.conv(z)] if self.column in kept else []
        deeper = tuple(c for c in kept if c > self.column)
        return [*shallow, *self.second(self.first(z), deeper)] if deeper else shallow


class FractalBlock(nn.Module):
    """f_{C+1}(z) = join[conv(z), f_C(f_C(z))], joins that meet being one. (N, C, H, W) -> (N, channels, H/s, W/s)."""

    def __init__(
        self, column: int, in_channels: int, channels: int, drop_rate: float, pool: nn.Module, plan: Plan
    ) -> None:
        super().__init__()
        self.fractal = Fractal(column, in_channels, channels, drop_rate, plan)
        self.join = Join(column, channels, pool, plan)

    def forward(self, z: Tensor) -> Tensor:
        return self.join(self.fractal, z)


class FractalNet(Backbone):
    """FractalNet for 32x32 images: five blocks, each column of a block pooled before they join. `xavier_init`.

    `drop_rate` is the dropout of the last block; the first has none and the others lie evenly between (Sec. 4).
    `column` builds that one column of every block as a plain network of its own, `columns` being the deepest: the
    weights of a trained FractalNet fit by name, `alone.load_state_dict(whole.state_dict(), strict=False)`. `thin` makes
    each column half as wide as the one before; 1x1 convolutions widen it for the joins (note of Table 1). Its
    columns mix 3x3 with 1x1 filters, as printed; their shares are fitted to the printed 22.9 M parameters.
    """

    def __init__(
        self,
        columns: int = 3,
        width: int = 64,
        thin: bool = False,
        column: int | None = None,
        num_classes: int = 10,
        in_channels: int = 3,
        drop_rate: float = 0.4,
        drop_path_rate: float = 0.15,
    ) -> None:
        check(columns, column)
        if thin and width % (narrowest := 8 * NARROWING ** (columns - 1)):
            raise ValueError(f"width={width}; {columns} thin columns need a multiple of {narrowest}")
        plan = Plan(columns, column, thin, drop_path_rate)
        stages, channels = [], in_channels
        for block, times in enumerate(CHANNELS):
            rate = drop_rate * block / (len(CHANNELS) - 1)
            stages.append(nn.Sequential(FractalBlock(1, channels, width * times, rate, nn.MaxPool2d(2), plan)))
            channels = width * times
        super().__init__(
            stem=nn.Identity(),
            stages=stages,
            head=Head(channels, num_classes),
            in_channels=in_channels,
            min_size=32,
            init=xavier_init,
        )


class ImageNetFractalNet(Backbone):
    """Four blocks of four columns between the first and the last layer of ResNet-34, 224x224 images. `xavier_init`.

    With ResNet's max-pooling behind the first layer and pooling between the blocks only, so that the last layer reads
    ResNet's 7x7 values; the paper leaves both open. The last stage holds the two blocks behind the third pooling.
    As `FractalNet` otherwise, but without dropout, for which the paper prints rates for five blocks.
    """

    def __init__(
        self,
        columns: int = 4,
        column: int | None = None,
        num_classes: int = 1000,
        in_channels: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.15,
    ) -> None:
        check(columns, column)
        plan = Plan(columns, column, False, drop_path_rate)
        blocks, channels = [], 64
        for block, out_channels in enumerate(IMAGENET_CHANNELS, 1):
            pool = nn.MaxPool2d(2) if block < len(IMAGENET_CHANNELS) else nn.Identity()
            rate = drop_rate * (block - 1) / (len(IMAGENET_CHANNELS) - 1)
            blocks.append(FractalBlock(1, channels, out_channels, rate, pool, plan))
            channels = out_channels
        super().__init__(
            stem=nn.Sequential(*conv_norm(in_channels, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
            stages=[nn.Sequential(blocks[0]), nn.Sequential(blocks[1]), nn.Sequential(*blocks[2:])],
            head=Head(channels, num_classes),
            in_channels=in_channels,
            min_size=32,
            init=xavier_init,
        )


def check(columns: int, column: int | None) -> None:
    if columns < 1 or (column is not None and not 1 <= column <= columns):
        raise ValueError(f"columns={columns}, column={column}; give 1 or more columns, and one of these or None")


NO_DECAY = "no weight decay, which the paper does not print"
RECIPE = Recipe(
    source="Sec. 4",
    epochs=400,
    batch_size=100,
    lr=0.02,
    momentum=0.9,
    sched="step",
    milestones=tuple(1 - 2**-k for k in range(1, 9)),  # whenever the epochs that remain have halved, down to 2
    decay_rate=0.1,
    crop="pad",
    crop_pad=4,
    hflip=0.5,
    deviations=(NO_DECAY,),
    elsewhere={"crop_pad": "usual for CIFAR; the paper prints translations, and no figure"},
)
IMAGENET_RECIPE = Recipe(
    source="Sec. 4",
    epochs=70,
    batch_size=32,
    lr=0.001,
    momentum=0.9,
    sched="step",
    milestones=RECIPE.milestones[:5],
    decay_rate=0.1,
    crop="side",
    scale=(256 / 224, 256 / 224),
    hflip=0.5,
    deviations=(*RECIPE.deviations, "crops and mirror images of 256 pixels; the paper does not print its augmentation"),
    elsewhere=dict.fromkeys(("crop", "scale", "hflip"), "this library"),
)


COLUMNS = (  # of the errors in Table 1
    ("CIFAR-100 test", "without augmentation"),
    ("CIFAR-100 test", "with shifts and mirroring"),
    ("CIFAR-100 test", "with heavier augmentation"),
    ("CIFAR-10 test", "without augmentation"),
    ("CIFAR-10 test", "with shifts and mirroring"),
    ("CIFAR-10 test", "with heavier augmentation"),
    ("SVHN test", "without augmentation"),
)
BOTH = "with drop-path and dropout"
TABLE_1: dict[int, dict[str, tuple[float | None, ...]]] = {  # columns -> how, test errors in percent
    3: {
        "without either": (35.34, 23.30, 22.85, 10.18, 5.22, 5.11, 2.01),
        BOTH: (28.20, 23.73, 23.36, 7.33, 4.60, 4.59, 1.87),
        f"{BOTH}, the deepest column alone": (29.05, 24.32, 23.60, 7.27, 4.68, 4.63, 1.89),
    },
    4: {BOTH: (None, 22.49, 21.49, None, 5.24, 5.21, None)},
}
UNEXPLAINED = "five blocks of three columns with the channels of Sec. 4 have 33.7 M; where 4.9 M more come from is open"
SIZES = {
    3: Reported("Table 1", params=38.6e6, gap=UNEXPLAINED),
    4: Reported("Table 1", params=22.9e6),
}
SETTINGS = {3: {"columns": 3}, 4: {"columns": 4, "width": 128, "thin": True}}

for columns, lines in TABLE_1.items():
    errors = [
        Reported("Table 1", top1=100 - error, data=data, protocol=f"one view, trained {augmentation}, {how}")
        for how, line in lines.items()
        for error, (data, augmentation) in zip(line, COLUMNS, strict=True)
        if error is not None
    ]
    register(
        Variant(
            f"fractalnet{len(CHANNELS) * 2 ** (columns - 1)}_cifar",
            FractalNet,
            PAPER,
            SETTINGS[columns],
            (Reported("Sec. 4", maps=(16, 8, 4, 2, 1)), SIZES[columns], *errors),
            recipe=RECIPE,
            input_size=(3, 32, 32),
            crop=1.0,
            num_classes=10,
        )
    )
register(
    Variant(
        "fractalnet34",
        ImageNetFractalNet,
        PAPER,
        {"columns": 4},
        (Reported("Table 2", top1=100 - 24.12, top5=100 - 7.39, protocol="10 crops"),),
        recipe=IMAGENET_RECIPE,
    )
)
