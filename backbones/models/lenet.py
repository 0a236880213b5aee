"""LeNet-5 (LeCun, Bottou, Bengio, Haffner, 1998): convolve, sub-sample, compare with a drawing. Source: Sec. II-B."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.backbone import Backbone
from backbones.layers import Head, he_init
from backbones.records import NO_BRANCH, Departure, Paper, Recipe, Reported, Variant
from backbones.registry import register

PAPER = Paper(
    title="Gradient-Based Learning Applied to Document Recognition",
    authors="LeCun, Bottou, Bengio, Haffner",
    year=1998,
    venue="Proceedings of the IEEE 86(11)",
)

TABLE_I = (  # row: a map of S2; column: a map of C3, X where it sees that map
    "X...XXX..XXXX.XX",
    "XX...XXX..XXXX.X",
    "XXX...XXX..X.XXX",
    ".XXX..XXXX..X.XX",
    "..XXX..XXXX.XX.X",
    "...XXX..XXXX.XXX",
)

FIGURE_3 = (  # the target codes of the ten digits: bitmaps of 7x12 pixels, row by row
    ".#####. ....... ..###.. .##.##. ##...## ##...## ##...## ##...## .##.##. ..###.. ....... .......",
    "...##.. ..###.. .####.. ...##.. ...##.. ...##.. ...##.. ...##.. ...##.. .###### ....... .......",
    ".#####. ....... .#####. ##...## #....## ....##. ..###.. .##.... ##..... ####### ....... .......",
    "####### .....## ....##. ...##.. ..####. .....## .....## .....## ##...## .#####. ....... .......",
    ".#####. ....... ....... .##..## .##..## ###..## ##...## ##...## ##..### .###### .....## .....##",
    ".#####. ....... ####### ##..... ##..... .####.. ..####. .....## ##...## .#####. ....... .......",
    "..####. .##.... ##..... ##..... ######. ###..## ##...## ##...## ###..## .#####. ....... .......",
    "####### .....## .....## ....##. ...##.. ...##.. ..##... ..##... ..##... ..##... ....... .......",
    ".#####. ##...## ##...## ##...## .#####. ##...## ##...## ##...## ##...## .#####. ....... .......",
    ".#####. ##..### ##...## ##...## ##..### .###### .....## .....## ....##. .####.. ....... .......",
)
CODE_LENGTH = 7 * 12


class Squash(nn.Module):
    """A tanh(S x) with A = 1.7159 and S = 2/3 (eq. 6, Appendix A). Keeps the shape."""

    def forward(self, x: Tensor) -> Tensor:
        return 1.7159 * torch.tanh(2 / 3 * x)


class Subsampling(nn.Module):
    """coefficient * (sum of 2x2 inputs) + bias, both trained. (N, C, H, W) -> (N, C, H/2, W/2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mean = nn.AvgPool2d(2)
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (4 * self.mean(x)) + self.bias


class PartialConv(nn.Module):
    """C3: every output map sees only the input maps of its column of Table I. (N, 6, H, W) -> (N, 16, H-4, W-4).

    Only the 60 kernels that exist are stored. They run inside one dense convolution, ten times as fast to train as
    grouped ones: 240,000 multiply-adds at 32x32 where 150,000 would do.
    """

    outputs: Tensor
    inputs: Tensor

    def __init__(self) -> None:
        super().__init__()
        seen = [(i, j) for j, column in enumerate(zip(*TABLE_I, strict=True)) for i, x in enumerate(column) if x == "X"]
        inputs, outputs = torch.tensor(seen).T
        self.register_buffer("inputs", inputs, persistent=False)
        self.register_buffer("outputs", outputs, persistent=False)
        self.weight = nn.Parameter(torch.empty(len(seen), 5, 5))
        self.bias = nn.Parameter(torch.empty(len(TABLE_I[0])))

    @property
    def fan_in(self) -> Tensor:
        """Inputs of each output map: 75, 100 or 150."""
        return 25 * self.outputs.bincount()

    def forward(self, x: Tensor) -> Tensor:
        dense = self.weight.new_zeros(len(self.bias), len(TABLE_I), 5, 5)
        return F.conv2d(x, dense.index_put((self.outputs, self.inputs), self.weight), self.bias)


class RadialBasis(nn.Module):
    """-|x - code_i|^2, the negated output of eq. 7, so that the nearest code is the largest. (N, 84) -> (N, classes).

    The codes are fixed: the bitmaps of Figure 3 for the ten digits, otherwise random signs, the paper's own
    alternative (Sec. II-B), the same ones every time.
    """

    codes: Tensor

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        if num_features != CODE_LENGTH:
            raise ValueError(f"a code has {CODE_LENGTH} values, not {num_features}")
        if num_classes == len(FIGURE_3):
            signs = torch.tensor([[pixel == "#" for pixel in code if pixel != " "] for code in FIGURE_3], device="cpu")
        else:
            signs = (
                torch.rand(num_classes, num_features, generator=torch.Generator().manual_seed(1998), device="cpu") < 0.5
            )
        self.register_buffer("codes", (2.0 * signs - 1).to(torch.get_default_device()))

    def forward(self, x: Tensor) -> Tensor:
        return -(x[:, None] - self.codes).square().sum(2)


def lecun_init(module: nn.Module) -> None:
    """Uniform in +-2.4 / fan_in, weights and biases alike (Appendix A)."""
    if isinstance(module, nn.Conv2d | nn.Linear | Subsampling):
        bound = 2.4 / (4 if isinstance(module, Subsampling) else module.weight[0].numel())
        for parameter in module.parameters(recurse=False):
            nn.init.uniform_(parameter, -bound, bound)
    elif isinstance(module, PartialConv) and not module.weight.is_meta:
        bounds = 2.4 / module.fan_in
        with torch.no_grad():
            nn.init.uniform_(module.weight, -1, 1).mul_(bounds[module.outputs, None, None])
            nn.init.uniform_(module.bias, -1, 1).mul_(bounds)


class LeNet5(Backbone):
    """LeNet-5, 32x32 images. `lecun_init`; `modern` is the network of today's courses."""

    def __init__(
        self, modern: bool = False, num_classes: int = 10, in_channels: int = 1, drop_rate: float = 0.0
    ) -> None:
        def after(channels: int) -> list[nn.Module]:
            return [nn.ReLU(), nn.MaxPool2d(2)] if modern else [Squash(), Subsampling(channels), Squash()]

        def squash() -> nn.Module:
            return nn.ReLU() if modern else Squash()

        stages = [
            nn.Sequential(nn.Conv2d(in_channels, 6, 5), *after(6)),
            nn.Sequential(nn.Conv2d(6, 16, 5) if modern else PartialConv(), *after(16)),
            nn.Sequential(nn.Conv2d(16, 120, 5), squash()),
        ]
        head = Head(
            CODE_LENGTH,
            num_classes,
            neck=nn.Sequential(nn.Linear(120, CODE_LENGTH), squash()),
            classifier=nn.Linear if modern else RadialBasis,
            drop_rate=drop_rate,
        )
        init = he_init if modern else lecun_init
        super().__init__(stem=nn.Identity(), stages=stages, head=head, in_channels=in_channels, min_size=32, init=init)


RECIPE = Recipe(
    source="Sec. III-C and Appendix C",
    epochs=20,
    batch_size=1,
    lr=0.0005,
    momentum=0.0,
    sched="step",
    milestones=(2 / 20, 5 / 20, 8 / 20, 12 / 20),
    milestone_rates=(2 / 5, 1 / 5, 1 / 10, 1 / 50),
    loss="map",
    deviations=(
        "pixels with mean 0 and deviation 1 over the training images, in place of -0.1 for paper and 1.175 for ink",
        "plain stochastic gradient descent in place of the stochastic diagonal Levenberg-Marquardt method",
        "penalty j of the rubbish class: the paper calls it a positive constant and prints no value; 1 here",
    ),
    elsewhere=dict.fromkeys(("opt", "momentum"), "this library"),
)
OURS: dict[str, Any] = {"paper": PAPER, "input_size": (1, 32, 32), "crop": 1.0, "num_classes": 10, "cannot": NO_BRANCH}

register(
    Variant(
        "lenet5",
        LeNet5,
        settings={},
        recipe=RECIPE,
        reported=(
            Reported("Fig. 2 and Sec. II-B", params=60_000, maps=(14, 5, 1)),
            Reported("Sec. III-C", top1=100 - 0.95, data="MNIST test", protocol="single image"),
            Reported(
                "Sec. III-C", top1=100 - 0.8, data="MNIST test", protocol="single image, trained with distortions"
            ),
        ),
        **OURS,
    ),
    Variant(
        "lenet5.modern",
        LeNet5,
        settings={"modern": True},
        departures=(
            Departure("2x2 max-pooling", "a trained coefficient and bias on the sum of 2x2 inputs", "Sec. II-B"),
            Departure("C3 sees all six maps of S2", "each map of C3 sees those of its column", "Table I"),
            Departure("ReLU", "1.7159 tanh(2/3 x)", "eq. 6, Appendix A"),
            Departure("a linear output layer", "distances to fixed 7x12 bitmaps", "eq. 7, Fig. 3"),
            Departure("He initialisation", "uniform in +-2.4 / fan_in", "Appendix A"),
        ),
        **OURS,
    ),
)
