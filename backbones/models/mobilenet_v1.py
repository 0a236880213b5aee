"""MobileNet (Howard et al., 2017): depthwise separable convolutions from end to end, in any width. Source: Table 1."""

from typing import Any, Literal, NamedTuple, get_args

from torch import Tensor, nn

from backbones.backbone import Backbone
from backbones.layers import Head, SamePad
from backbones.records import NO_BRANCH, ONE_WORKER, Departure, Paper, Recipe, Reported, Variant
from backbones.registry import register

PAPER = Paper(
    title="MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications",
    authors="Howard, Zhu, Chen, Kalenichenko, Wang, Weyand, Andreetto, Adam",
    year=2017,
    venue="arXiv",
    arxiv="1704.04861",
    builds_on=("xception",),
)


class Row(NamedTuple):
    """Two lines of Table 1: a depthwise 3x3 convolution and the 1x1 convolution behind it."""

    channels: int  # put out by the 1x1 convolution
    stride: int  # of the 3x3 convolution
    repeats: int = 1


TABLE_1 = (  # a line for each stage, that is for each size of the maps
    (Row(64, 1),),
    (Row(128, 2), Row(128, 1)),
    (Row(256, 2), Row(256, 1)),
    (Row(512, 2), Row(512, 1, repeats=5)),
    (Row(1024, 2), Row(1024, 1)),  # the last is printed with stride 2, but its map stays at 7x7
)
STEM = 32  # channels of the 3x3 convolution, stride 2, that reads the image
LEAST = 8  # fewer channels no layer has, in the authors' release

Padding = Literal["same", "symmetric"]


class Layer(NamedTuple):
    """How every convolution is padded, normalised and activated."""

    padding: Padding = "same"
    norm_eps: float = 1e-3
    relu6: bool = False

    def conv(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1
    ) -> nn.Sequential:
        """relu(norm(conv(x))). (N, in_channels, H, W) -> (N, out_channels, H/stride, W/stride)."""
        same = self.padding == "same" and stride > 1  # at stride 1 both paddings are the same
        padding = 0 if same else kernel_size // 2
        return nn.Sequential(
            *([SamePad(kernel_size, stride)] if same else []),
            nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False),
            nn.BatchNorm2d(out_channels, self.norm_eps),
            nn.ReLU6() if self.relu6 else nn.ReLU(),
        )


class DepthwiseSeparable(nn.Module):
    """pointwise(depthwise(x)), a norm and a ReLU behind each (Fig. 3 right).

    (N, in_channels, H, W) -> (N, out_channels, H/stride, W/stride).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, layer: Layer | None = None) -> None:
        super().__init__()
        layer = layer or Layer()
        self.depthwise = layer.conv(in_channels, in_channels, 3, stride, groups=in_channels)
        self.pointwise = layer.conv(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x))


def truncated_init(module: nn.Module) -> None:
    """Weights N(0, 0.09^2), cut at two deviations, biases 0; norms are left at weight 1, bias 0.

    The paper is silent: this is the authors' release in TensorFlow (slim).
    """
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.09, a=-0.18, b=0.18)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class MobileNetV1(Backbone):
    """MobileNet. The full convolution is the stem; a stage begins where the map shrinks. `truncated_init`.

    `width` is the paper's alpha; its rho is the size of the images. `separable=False` is the network of full
    convolutions of Table 4, `shallow` leaves out the five blocks that Table 5 leaves out. SAME padding, the norms' eps
    and the dropout, on which the paper is silent, are those of the authors' release.
    """

    def __init__(
        self,
        width: float = 1.0,
        separable: bool = True,
        shallow: bool = False,
        padding: Padding = "same",
        norm_eps: float = 1e-3,
        relu6: bool = False,
        num_classes: int = 1000,
        in_channels: int = 3,
        drop_rate: float = 0.001,
    ) -> None:
        if width <= 0 or padding not in get_args(Padding):
            raise ValueError(
                f"width={width}, padding={padding!r}; give a width above 0 and one of {', '.join(get_args(Padding))}"
            )
        layer = Layer(padding, norm_eps, relu6)
        channels = max(int(STEM * width), LEAST)
        stem, stages = layer.conv(in_channels, channels, 3, stride=2), []
        for rows in TABLE_1:
            stage = nn.Sequential()
            for row in rows:
                out_channels = max(int(row.channels * width), LEAST)
                for _ in range(0 if shallow and row.repeats > 1 else row.repeats):
                    if separable:
                        stage.append(DepthwiseSeparable(channels, out_channels, row.stride, layer))
                    else:
                        stage.append(layer.conv(channels, out_channels, 3, row.stride))
                    channels = out_channels
            stages.append(stage)
        super().__init__(
            stem=stem,
            stages=stages,
            head=Head(channels, num_classes, drop_rate=drop_rate),
            in_channels=in_channels,
            min_size=32,
            init=truncated_init,
        )


AS_INCEPTION = "1512.00567, Sec. 8: training was similar to Inception-v3's, the paper says"
CODE = "the authors' release"
RECIPE = Recipe(
    source="Sec. 3.2, and 1512.00567, Sec. 8, to which it refers",
    epochs=100,
    batch_size=32,
    lr=0.045,
    opt="rmsprop",
    momentum=0.9,
    alpha=0.9,
    eps=1.0,
    weight_decay=4e-5,
    decay_norm=False,
    decay_depthwise=False,
    sched="exponential",
    decay_rate=0.94,
    decay_epochs=2.0,
    clip_grad=2.0,
    model_ema=True,
    model_ema_decay=0.9999,
    crop="area",
    scale=(0.2, 1.0),
    hflip=0.5,
    deviations=(
        ONE_WORKER,
        "no photometric distortion; the paper reduces Inception-v3's and says only that it limits small crops",
        "no crop below a fifth of the image: the paper limits small crops and prints no figure",
    ),
    elsewhere={
        **dict.fromkeys(("lr", "batch_size", "epochs", "sched", "decay_rate", "decay_epochs"), AS_INCEPTION),
        **dict.fromkeys(("alpha", "eps", "clip_grad"), AS_INCEPTION),
        **dict.fromkeys(("weight_decay", "decay_norm", "momentum", "model_ema", "model_ema_decay"), CODE),
        **dict.fromkeys(("crop", "ratio", "hflip"), CODE),
        "scale": "this library",
    },
)
MAPS = (112, 56, 28, 14, 7)
ONE_DIGIT = "printed with one digit after the point"


def printed(
    table: int, top1: float, madds: float, params: float, input_size: int | None = None, gap: str = ""
) -> Reported:
    """A line of Tables 4 to 9, which print accuracy, millions of multiply-adds and millions of parameters."""
    return Reported(f"Table {table}", params * 1e6, madds * 1e6, input_size, top1=top1, protocol="one crop", gap=gap)


NETWORKS: dict[str, tuple[dict[str, Any], tuple[Reported, ...]]] = {  # name -> settings, what is printed of it
    "mobilenet_v1": (
        {"width": 1.0},
        (
            Reported("Table 1", maps=MAPS),
            printed(6, 70.6, 569, 4.2),
            printed(7, 69.1, 418, 4.2, input_size=192),
            printed(7, 67.2, 290, 4.2, input_size=160),
            printed(7, 64.4, 186, 4.2, input_size=128),
        ),
    ),
    "mobilenet_v1_x0_75": ({"width": 0.75}, (printed(6, 68.4, 325, 2.6),)),
    "mobilenet_v1_x0_5": (
        {"width": 0.5},
        (printed(6, 63.7, 149, 1.3, gap=ONE_DIGIT), printed(9, 60.2, 76, 1.32, input_size=160)),
    ),
    "mobilenet_v1_x0_25": ({"width": 0.25}, (printed(6, 50.6, 41, 0.5, gap=ONE_DIGIT),)),
    "mobilenet_v1_conv": ({"separable": False}, (printed(4, 71.7, 4866, 29.3),)),
    "mobilenet_v1_shallow": ({"shallow": True}, (printed(5, 65.3, 307, 2.9),)),
}
ALIASES = {"mobilenet_v1": ("mobilenet_v1_x1_0",)}
RELU6 = Departure("ReLU6, which ends at 6", "ReLU", "Sec. 3.2")
FAR_EDGE = Departure(
    "a 3x3 of stride 2 is padded as SAME; Keras pads the far edges by 1, which is the same for maps of even sides only",
    "SAME padding of the authors' release",
    "Table 1",
)
DEPARTURES = (
    Departure("padding of 1 on every side", "SAME padding of the authors' release", "Table 1"),
    Departure("batch normalisation with eps 1e-5", "1e-3 in the authors' release", "Sec. 3.2"),
    RELU6,
    Departure("no dropout", "dropout of rate 0.001 in the authors' release", "Sec. 3.2"),
)

for name, (settings, claims) in NETWORKS.items():
    aliases = ALIASES.get(name, ())
    register(Variant(name, MobileNetV1, PAPER, settings, claims, recipe=RECIPE, cannot=NO_BRANCH, aliases=aliases))
    if settings.keys() == {"width"}:
        twin, relu6 = (RELU6, FAR_EDGE), {**settings, "relu6": True}
        register(Variant(f"{name}.keras", MobileNetV1, PAPER, relu6, departures=twin, recipe=RECIPE, cannot=NO_BRANCH))
register(
    Variant(
        "mobilenet_v1.timm",
        MobileNetV1,
        PAPER,
        {"padding": "symmetric", "norm_eps": 1e-5, "relu6": True, "drop_rate": 0.0},
        departures=DEPARTURES,
        recipe=RECIPE,
        cannot=NO_BRANCH,
        aliases=("mobilenetv1_100",),
    )
)
