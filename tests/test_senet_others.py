"""What is peculiar to SENet's other networks: where each SE block stands, and what it costs."""

import math

import pytest
import torch
from torch import nn

from backbones import create_model
from backbones.models.inception_resnet import Scale
from backbones.models.inception_v2 import InceptionV2Block
from backbones.models.senet import SqueezeExcite

# name -> the network without SE blocks, whether they have biases, and the channels of every SE block
EXCITED = {
    "se_inception_v2": ("inception_v2.caffe", True, (256, 320, 576, 576, 576, 608, 608, 1056, 1024, 1024)),
    "se_inception_resnet_v2": ("inception_resnet_v2.slim", True, (320,) * 10 + (1088,) * 20 + (2080,) * 10),
    "se_mobilenet_v1": ("mobilenet_v1", False, (64, 128, 128, 256, 256, *(512,) * 6, 1024, 1024)),
    "se_shufflenet_v1_g3_x1_0": (
        "shufflenet_v1_g3_x1_0",
        False,
        (240 - 24, *(240,) * 3, 480 - 240, *(480,) * 7, 960 - 480, *(960,) * 3),
    ),
    "se_resnet110_cifar": ("preact_resnet110_cifar", True, (16,) * 18 + (32,) * 18 + (64,) * 18),
    "se_resnet164_cifar": ("preact_resnet164_cifar", True, (64,) * 18 + (128,) * 18 + (256,) * 18),
    "se_wrn_16_8": ("wrn_16_8", True, (128,) * 2 + (256,) * 2 + (512,) * 2),
}


@pytest.mark.parametrize("name", EXCITED)
@pytest.mark.parametrize("reduction", [8, 16])
def test_what_the_blocks_add(name: str, reduction: int) -> None:
    """Two layers each, C to C / r and back; the rest is the network that is excited."""
    base, bias, channels = EXCITED[name]
    with torch.device("meta"):
        more, plain = create_model(name, reduction=reduction), create_model(base)
    gates = [m for m in more.modules() if isinstance(m, SqueezeExcite)]
    assert [gate.squeeze.in_channels for gate in gates] == list(channels)
    weights = sum(2 * c * (c // reduction) for c in channels)
    biases = sum(c + c // reduction for c in channels) if bias else 0
    assert count(more) - count(plain) == weights + biases


@pytest.mark.parametrize("name", [n for n in EXCITED if "inception_v2" not in n and "mobilenet" not in n])
def test_they_end_every_branch(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name)
    branches = [m.branch for m in model.modules() if hasattr(m, "branch")]
    assert len(branches) == len(EXCITED[name][2])
    for *_, before, last in branches:
        assert isinstance(last, SqueezeExcite)
        assert isinstance(before, Scale | nn.Conv2d | nn.BatchNorm2d)


def test_they_follow_every_inception_module() -> None:
    with torch.device("meta"):
        model = create_model("se_inception_v2")
    pairs = [list(b) for stage in model.stages for b in stage if isinstance(b, nn.Sequential) and len(b) == 2]
    assert [(type(module), type(gate)) for module, gate in pairs] == [(InceptionV2Block, SqueezeExcite)] * 10
    assert sum(isinstance(m, InceptionV2Block) for m in model.modules()) == 10


def test_they_follow_every_pointwise_convolution() -> None:
    with torch.device("meta"):
        model = create_model("se_mobilenet_v1")
    blocks = [block for stage in model.stages for block in stage]
    assert len(blocks) == 13
    assert {tuple(type(m).__name__ for m in block.pointwise) for block in blocks} == {
        ("Conv2d", "BatchNorm2d", "ReLU", "SqueezeExcite")
    }


@pytest.mark.parametrize("name", ["se_mobilenet_v1", "se_wrn_16_8", "se_inception_resnet_v2"])
def test_starts_as_he_says(name: str) -> None:
    """Sec. 5.1: N(0, 2 / fan-in), the gates too; the WRN's own layers as in its paper's release, with fan-out."""
    model = create_model(name, seed=0)
    gate = [m for m in model.modules() if isinstance(m, SqueezeExcite)][-1]
    channels = gate.squeeze.in_channels
    fans = {gate.squeeze: channels, gate.excite: channels // 16}
    if name == "se_wrn_16_8":
        fans[model.stages[2][1].branch[2]] = 9 * 512
    elif name == "se_mobilenet_v1":
        fans |= {model.stages[4][1].depthwise[0]: 9, model.stages[4][1].pointwise[0]: 1024}
        fans[model.head.classifier] = 1024
    else:
        fans |= {model.stages[3][-1][0]: 2080, model.head.classifier: 1536}
    for layer, fan_in in fans.items():
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=0.02)
        assert layer.bias is None or not layer.bias.any()


@pytest.mark.parametrize(
    ("name", "reduction", "said"),
    [
        ("se_inception_v2", 0, "give 1 to 256"),
        ("se_mobilenet_v1", 65, "1 to 64"),
        ("se_resnet110_cifar", 17, "1 to 16"),
    ],
)
def test_reductions_that_are_not_allowed(name: str, reduction: int, said: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=said):
        create_model(name, reduction=reduction)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
