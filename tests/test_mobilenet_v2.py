"""What is peculiar to MobileNetV2."""

import math

import pytest
import torch
from torch import nn

from backbones import create_model
from backbones.layers import SamePad
from backbones.models.mobilenet_v2 import InvertedResidual, make_divisible


def test_channels_are_multiples_of_eight() -> None:
    """Not far below what was asked for: 11.2 becomes 16, because 8 is less than nine tenths of it."""
    asked = {1: 8, 11.2: 16, 8.4: 8, 12: 16, 33.6: 32, 44.8: 48, 134.4: 136, 1792: 1792}
    assert {channels: make_divisible(channels) for channels in asked} == asked
    stems = {width: create_model("mobilenet_v2", width=width).stem[-3].out_channels for width in (0.35, 1.0, 1.4)}
    assert stems == {0.35: 16, 1.0: 32, 1.4: 48}
    features = {width: create_model("mobilenet_v2", width=width).num_features for width in (0.35, 1.0, 1.4)}
    assert features == {0.35: 1280, 1.0: 1280, 1.4: 1792}


def test_parameters_by_hand() -> None:
    """Table 2 once more: a block of c -> d with expansion t holds t c (c + 9 + d) weights, and its norms."""
    total, channels = 27 * 32 + 2 * 32, 32
    for t, c, n in ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1)):
        for _ in range(n):
            wide = t * channels
            total += wide * channels * (t > 1) + 9 * wide + wide * c + 2 * (wide * (1 + (t > 1)) + c)
            channels = c
    total += 320 * 1280 + 2 * 1280 + 1281 * 1000
    assert sum(p.numel() for p in create_model("mobilenet_v2").parameters()) == total == 3_504_872


def test_bottlenecks_are_linear_and_add_where_they_can() -> None:
    model = create_model("mobilenet_v2")
    blocks = [m for m in model.modules() if isinstance(m, InvertedResidual)]
    assert len(blocks) == 17
    assert all(isinstance(block.branch[-1], nn.BatchNorm2d) for block in blocks)
    assert [sum(isinstance(m, nn.ReLU6) for m in block.branch) for block in blocks] == [1] + [2] * 16
    adds = [block.drop_path is not None for block in blocks]
    assert adds == [n > 0 for repeats in (1, 2, 3, 4, 3, 3, 1) for n in range(repeats)]
    x = torch.randn(1, 24, 9, 9)
    second = blocks[2].eval()
    torch.testing.assert_close(second(x), x + second.branch(x))


def test_padding_is_tensorflows() -> None:
    """On an even side the one pixel of padding is below and to the right; torchvision's is above and to the left."""
    ours, theirs = create_model("mobilenet_v2", seed=0), create_model("mobilenet_v2.tv", seed=0)
    assert sum(isinstance(m, SamePad) for m in ours.modules()) == 5
    assert not any(isinstance(m, SamePad) for m in theirs.modules())
    theirs.load_state_dict(ours.state_dict())
    pad, conv = ours.stem[0], ours.stem[1]
    x = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(theirs.stem[1](x), nn.functional.conv2d(x, conv.weight, stride=2, padding=1))
    torch.testing.assert_close(
        conv(pad(x)), nn.functional.conv2d(nn.functional.pad(x, (0, 1, 0, 1)), conv.weight, stride=2)
    )
    assert {(m.eps, m.momentum) for m in ours.modules() if isinstance(m, nn.BatchNorm2d)} == {(1e-3, 0.003)}
    assert {(m.eps, m.momentum) for m in theirs.modules() if isinstance(m, nn.BatchNorm2d)} == {(1e-5, 0.1)}


def test_weights_start_as_a_truncated_normal() -> None:
    """The deviation of N(0, s^2) cut at +-2 s is s sqrt(1 - 4 pdf(2) / (cdf(2) - cdf(-2))) = 0.880 s."""
    share = 1 - 4 * math.exp(-2) / math.sqrt(2 * math.pi) / math.erf(math.sqrt(2))
    model = create_model("mobilenet_v2", seed=0)
    depthwise = model.stages[4][2].branch[3]
    assert depthwise.groups == 960
    for layer in (model.stages[4][2].branch[0], depthwise, model.head.classifier):
        assert layer.weight.std().item() == pytest.approx(0.09 * math.sqrt(share), rel=0.02)
        assert 0.17 < layer.weight.abs().max() <= 0.18
    assert not model.head.classifier.bias.any()


def test_settings_that_are_not_allowed() -> None:
    with pytest.raises(ValueError, match=r"width=0; give a multiplier above 0"):
        create_model("mobilenet_v2", width=0)
    with pytest.raises(ValueError, match=r"padding='valid'; give one of same, symmetric"):
        create_model("mobilenet_v2", padding="valid")
