"""Xception (1610.02357): what is peculiar to it."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from backbones import create_model
from backbones.backbone import Backbone
from backbones.models.xception import SeparableConv2d, XceptionModule


@pytest.fixture(scope="module")
def model() -> Backbone:
    return create_model("xception", seed=0)


def test_a_separable_convolution_is_a_convolution_of_rank_one_filters() -> None:
    """Nothing stands between depthwise and pointwise: one dense convolution with the product of both does the same."""
    torch.manual_seed(0)
    separable, x = SeparableConv2d(6, 10).double(), torch.randn(2, 6, 7, 8, dtype=torch.float64)
    dense = separable.pointwise.weight * separable.depthwise.weight.transpose(0, 1)
    torch.testing.assert_close(separable(x), F.conv2d(x, dense, padding=1))
    assert sum(p.numel() for p in separable.parameters()) == 9 * 6 + 6 * 10


def test_36_convolutions_in_14_modules(model: Backbone) -> None:
    """Sec. 3: with linear residual connections around all modules but the first and the last."""
    convolutions = [m for m in model.stem if isinstance(m, nn.Conv2d)]
    separable = [m for m in model.modules() if isinstance(m, SeparableConv2d)]
    residual = [m for m in model.modules() if isinstance(m, XceptionModule)]
    assert len(convolutions) + len(separable) == 36
    assert 1 + len(residual) + 1 == 14
    assert [len(m.shortcut) for m in residual] == [2, 2, 2] + [0] * 8 + [2]


def test_relu_comes_first_except_after_the_stem(model: Backbone) -> None:
    modules = [m for m in model.modules() if isinstance(m, XceptionModule)]
    assert [isinstance(m.branch[0], nn.ReLU) for m in modules] == [False] + [True] * 11
    assert all(type(a) is not type(b) for m in modules for a, b in zip(m.branch, m.branch[1:], strict=False))
    assert [type(m).__name__ for m in model.stages[-1][-1]] == ["SeparableConv2d", "BatchNorm2d", "ReLU"]


def test_same_padding_hangs_over_the_far_edge_only() -> None:
    """On an even map SAME's windows begin at 0 and timm's at -1; on an odd map both begin at -1."""
    keras, timm = (create_model(name, seed=0).stages[1][0] for name in ("xception", "xception.timm"))
    pool, symmetric = keras.branch[-2:], timm.branch[-1]
    even, odd = torch.randn(1, 2, 8, 8) - 5, torch.randn(1, 2, 9, 9) - 5
    torch.testing.assert_close(pool(even), F.max_pool2d(F.pad(even, (0, 1, 0, 1), value=-math.inf), 3, 2))
    assert not torch.equal(pool(even), symmetric(even))
    assert torch.equal(pool(odd), symmetric(odd))


def test_maps_and_eps() -> None:
    """Sides of the release at 299 pixels, 19x19x728 as printed."""
    with torch.device("meta"):
        model, timm = create_model("xception"), create_model("xception.timm")
        maps = model.features(torch.empty(1, 3, 299, 299))
    assert [(m.shape[1], m.shape[2]) for m in maps] == [(64, 147), (128, 74), (256, 37), (728, 19), (2048, 10)]
    eps = [{m.eps for m in net.modules() if isinstance(m, nn.BatchNorm2d)} for net in (model, timm)]
    assert eps == [{1e-3}, {1e-5}]
    assert (model.head.dropout.p, timm.head.dropout.p) == (0.5, 0.0)


def test_stochastic_depth_grows_with_the_module() -> None:
    with torch.device("meta"):
        model = create_model("xception", drop_path_rate=0.6)
    rates = [m.drop_path.rate for m in model.modules() if isinstance(m, XceptionModule)]
    assert rates == pytest.approx([0.05 * depth for depth in range(1, 13)])


def test_initialisation(model: Backbone) -> None:
    """Glorot and Bengio: uniform within sqrt(6 / (fan_in + fan_out)), of deviation sqrt(2 / (fan_in + fan_out))."""
    for layer in (m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)):
        out_fan, in_fan = layer.weight.shape[0] * layer.weight[0, 0].numel(), layer.weight[0].numel()
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / (in_fan + out_fan)), rel=0.06)
        assert layer.weight.abs().max() <= math.sqrt(6 / (in_fan + out_fan))
    assert not model.head.classifier.bias.any()


def test_settings_that_are_not_allowed() -> None:
    with torch.device("meta"), pytest.raises(ValueError, match="padding='valid'; give one of same, symmetric"):
        create_model("xception", padding="valid")
