"""The building blocks of the papers, each on its own, with what it costs by formula.

BLOCKS["fire"].build() makes one; `params` and `madds` work its formulas out, and the tests count the same.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from backbones.layers import DropPath
from backbones.models import (
    densenet,
    fractalnet,
    googlenet,
    inception_v3,
    mobilenet_v1,
    mobilenet_v2,
    preact_resnet,
    resnet,
    senet,
    shufflenet_v1,
    squeezenet,
)
from backbones.records import Paper


@dataclass(frozen=True)
class Block:
    """One block. Formulas are Python expressions in its sizes; h and w are height and width of the map it reads."""

    computes: str
    """what it puts out, and the channels of that"""
    paper: Paper
    make: Callable[..., nn.Module]
    sizes: Mapping[str, int]
    """its sizes, with the values of an example"""
    params_formula: str
    """trained values"""
    madds_formula: str
    """multiply-adds of its convolutions, for one image"""

    def build(self, **sizes: int) -> nn.Module:
        """The block with these sizes, the example's where none is given. TypeError for a size it does not have."""
        return self.make(**self._complete(sizes))

    def params(self, **sizes: int) -> int:
        """Trained values, by the formula."""
        return self._work_out(self.params_formula, self._complete(sizes))

    def madds(self, height: int, width: int, **sizes: int) -> int:
        """Multiply-adds for a map of `height` x `width`, by the formula."""
        return self._work_out(self.madds_formula, {**self._complete(sizes), "h": height, "w": width})

    def _complete(self, sizes: Mapping[str, int]) -> dict[str, int]:
        if unknown := sizes.keys() - self.sizes.keys():
            raise TypeError(f"no size {sorted(unknown)}; this block has {list(self.sizes)}")
        return {**self.sizes, **sizes}

    @staticmethod
    def _work_out(formula: str, values: Mapping[str, int]) -> int:
        return int(eval(formula, {"__builtins__": {}}, dict(values)))  # our own formulas, below


def _naive_inception(c: int, c1: int, c3: int, c5: int) -> nn.Module:
    return googlenet.NaiveInception(c, c1, c3, c5)


def _inception(c: int, c1: int, r3: int, c3: int, r5: int, c5: int, p: int) -> nn.Module:
    return googlenet.Inception(c, googlenet.Row(c1, r3, c3, r5, c5, p))


def _residual(c: int) -> nn.Module:
    return resnet.ResidualBlock(resnet.basic_branch(c, c, 1), nn.Identity(), 0.0)


def _bottleneck(c: int) -> nn.Module:
    return resnet.ResidualBlock(resnet.bottleneck_branch(4 * c, 4 * c, 1, "1x1"), nn.Identity(), 0.0)


def _pre_activation(c: int) -> nn.Module:
    plan = preact_resnet.PreActPlan((1,), (c,), (1,), False, "3x3", "A", 0.0)
    return plan.block(c, c, 1, 0.0)


def _dense(c: int, k: int, layers: int) -> nn.Module:
    plan = densenet.Plan((layers,), k, bottleneck=True, compression=0.5, drop_rate=0.0, memory_efficient=False)
    return densenet.DenseBlock(c, layers, plan)


def _fractal(c: int) -> nn.Module:
    plan = fractalnet.Plan(columns=3, column=None, thin=False, drop_path_rate=0.0)
    return fractalnet.FractalBlock(1, c, c, 0.0, nn.Identity(), plan)


def _asymmetric(c: int, k: int) -> nn.Module:
    return inception_v3.branch(c, ((1, k), c), ((k, 1), c))


def _separable(c: int, d: int, s: int) -> nn.Module:
    return mobilenet_v1.DepthwiseSeparable(c, d, s)


def _inverted(c: int, d: int, t: int, s: int) -> nn.Module:
    style = mobilenet_v2.Style("symmetric", 1e-5, 0.1, nn.ReLU6)
    branch = mobilenet_v2.bottleneck(c, d, s, t, style)
    return mobilenet_v2.InvertedResidual(branch, s == 1 and c == d, DropPath(0.0))


def _fire(c: int, s1: int, e1: int, e3: int) -> nn.Module:
    return squeezenet.Fire(c, squeezenet.Row(s1, e1, e3))


def _excite(c: int, r: int) -> nn.Module:
    return senet.SqueezeExcite(c, c // r)


HALVED = "((h - 1) // s + 1) * ((w - 1) // s + 1)"  # values of a padded 3x3 with stride s

BLOCKS: dict[str, Block] = {
    "naive inception": Block(
        "1x1, 3x3, 5x5 and max-pooling side by side: c1 + c3 + c5 + c channels",
        googlenet.PAPER,
        _naive_inception,
        {"c": 256, "c1": 128, "c3": 192, "c5": 96},
        "c * (c1 + 9 * c3 + 25 * c5) + c1 + c3 + c5",
        "h * w * c * (c1 + 9 * c3 + 25 * c5)",
    ),
    "inception": Block(
        "the same, with 1x1 reductions to r3 and r5 channels and a projection to p: c1 + c3 + c5 + p channels",
        googlenet.PAPER,
        _inception,
        {"c": 256, "c1": 128, "r3": 64, "c3": 192, "r5": 64, "c5": 96, "p": 64},
        "c * (c1 + r3 + r5 + p) + 9 * r3 * c3 + 25 * r5 * c5 + c1 + r3 + c3 + r5 + c5 + p",
        "h * w * (c * (c1 + r3 + r5 + p) + 9 * r3 * c3 + 25 * r5 * c5)",
    ),
    "residual": Block(
        "relu(x + two 3x3 with batch norm): c channels",
        resnet.PAPER,
        _residual,
        {"c": 64},
        "2 * 9 * c**2 + 4 * c",
        "h * w * 2 * 9 * c**2",
    ),
    "bottleneck": Block(
        "relu(x + 1x1, 3x3, 1x1 with batch norm), c inside: 4c channels",
        resnet.PAPER,
        _bottleneck,
        {"c": 64},
        "(4 + 9 + 4) * c**2 + (2 + 2 + 8) * c",
        "h * w * (4 + 9 + 4) * c**2",
    ),
    "pre-activation": Block(
        "x + two of batch norm, relu, 3x3: c channels",
        preact_resnet.PAPER,
        _pre_activation,
        {"c": 64},
        "2 * 9 * c**2 + 4 * c",
        "h * w * 2 * 9 * c**2",
    ),
    "dense": Block(
        "every layer reads all maps before it, through 4k, and adds k: c + layers * k channels",
        densenet.PAPER,
        _dense,
        {"c": 64, "k": 32, "layers": 6},
        "(layers * c + k * layers * (layers - 1) // 2) * (4 * k + 2) + layers * (36 * k**2 + 8 * k)",
        "h * w * ((layers * c + k * layers * (layers - 1) // 2) * 4 * k + layers * 36 * k**2)",
    ),
    "fractal": Block(
        "three columns of 1, 2 and 4 3x3 convolutions with batch norm, joined by their mean: c channels",
        fractalnet.PAPER,
        _fractal,
        {"c": 64},
        "7 * (9 * c**2 + 2 * c)",
        "h * w * 7 * 9 * c**2",
    ),
    "asymmetric convolution": Block(
        "1xk, then kx1, k odd, with batch norm, in place of kxk: c channels",
        inception_v3.PAPER,
        _asymmetric,
        {"c": 192, "k": 7},
        "2 * k * c**2 + 4 * c",
        "h * w * 2 * k * c**2",
    ),
    "grid reduction": Block(
        "a 3x3 to 384, a 1x1 to 64 and two 3x3 to 96, and max-pooling, each with stride 2: 480 + 288 channels",
        inception_v3.PAPER,
        inception_v3.first_reduction,
        {},
        "9 * 288 * 384 + 288 * 64 + 9 * 64 * 96 + 9 * 96**2 + 2 * (384 + 64 + 96 + 96)",
        "(9 * 288 * 384 + 9 * 96**2) * ((h - 1) // 2) * ((w - 1) // 2) + h * w * (288 * 64 + 9 * 64 * 96)",
    ),
    "depthwise separable": Block(
        "a 3x3 for each channel, then 1x1 over all, with batch norm: d channels, stride s",
        mobilenet_v1.PAPER,
        _separable,
        {"c": 64, "d": 128, "s": 2},
        "9 * c + c * d + 2 * c + 2 * d",
        f"{HALVED} * (9 * c + c * d)",
    ),
    "inverted residual": Block(
        "1x1 to t * c if t > 1, 3x3 for each channel, 1x1 to d without relu, plus x where the shape stays: d channels",
        mobilenet_v2.PAPER,
        _inverted,
        {"c": 24, "d": 24, "t": 6, "s": 1},
        "(t > 1) * (t * c**2 + 2 * t * c) + t * c * (9 + d) + 2 * t * c + 2 * d",
        f"(t > 1) * h * w * t * c**2 + {HALVED} * t * c * (9 + d)",
    ),
    "fire": Block(
        "1x1 to s1, then 1x1 to e1 beside 3x3 to e3: e1 + e3 channels",
        squeezenet.PAPER,
        _fire,
        {"c": 96, "s1": 16, "e1": 64, "e3": 64},
        "c * s1 + s1 * (e1 + 9 * e3) + s1 + e1 + e3",
        "h * w * (c * s1 + s1 * (e1 + 9 * e3))",
    ),
    "squeeze-excite": Block(
        "x * a gate from the mean of each channel, through c / r values: c channels",
        senet.PAPER,
        _excite,
        {"c": 256, "r": 16},
        "2 * c * (c // r) + c // r + c",
        "2 * c * (c // r)",
    ),
    "channel shuffle": Block(
        "the channels of `groups` groups dealt out to all of them: nothing to compute",
        shufflenet_v1.PAPER,
        shufflenet_v1.ChannelShuffle,
        {"groups": 3},
        "0",
        "0",
    ),
}
