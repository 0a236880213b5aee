"""What is peculiar to EfficientNet."""

import math

import pytest
import torch
from torch import nn

from backbones import create_model, model_info
from backbones.layers import DropPath
from backbones.models.efficientnet import SIZES
from backbones.models.mobilenet_v2 import InvertedResidual
from backbones.models.senet import SqueezeExcite


def test_sizes_are_the_compound_rule_rounded() -> None:
    """alpha 1.2, beta 1.1, gamma 1.15, found for phi = 1 (Sec. 4); from B4 on the released sizes are above the rule."""
    assert pytest.approx(2, abs=0.1) == 1.2 * 1.1**2 * 1.15**2
    for size, phi in zip(SIZES, (0, 0.5, 1, 2), strict=False):
        assert size.width == pytest.approx(1.1**phi, abs=0.05)
        assert size.depth == pytest.approx(1.2**phi, abs=0.05)
        assert size.side == pytest.approx(224 * 1.15**phi, abs=4)
    for size, phi in zip(SIZES[4:], (3, 4, 5, 6), strict=True):
        assert size.width > 1.1**phi
        assert size.depth > 1.2**phi
        assert size.side > 224 * 1.15**phi
    inputs = [model_info(f"efficientnet_b{i}").input_size for i in range(8)]
    assert inputs == [(3, size.side, size.side) for size in SIZES]


def test_parameters_by_hand() -> None:
    """B0: a block of c -> d with t c = w wide channels, a k x k window and a gate of s = c / 4."""
    total, c = 27 * 32 + 2 * 32, 32
    for t, k, d, n in (
        *((1, 3, 16, 1), (6, 3, 24, 2), (6, 5, 40, 2), (6, 3, 80, 3)),
        *((6, 5, 112, 3), (6, 5, 192, 4), (6, 3, 320, 1)),
    ):
        for _ in range(n):
            w, s = t * c, c // 4
            total += (t > 1) * (c * w + 2 * w) + k * k * w + 2 * w + (2 * w * s + w + s) + w * d + 2 * d
            c = d
    total += 320 * 1280 + 2 * 1280 + 1281 * 1000
    assert sum(p.numel() for p in create_model("efficientnet_b0").parameters()) == total == 5_288_548


def test_the_gate_is_measured_by_what_enters_the_block() -> None:
    gates = [m for m in create_model("efficientnet_b0").modules() if isinstance(m, SqueezeExcite)]
    squeezed = [gate.squeeze.out_channels for gate in gates]
    assert squeezed == [8, 4, 6, 6, 10, 10, *[20] * 3, *[28] * 3, *[48] * 4]
    assert all(isinstance(gate.activation, nn.SiLU) for gate in gates)


def test_blocks_are_dropped_as_released() -> None:
    """Block i of L with 0.2 i / L, counted from 0; only blocks that add are drawn, each image for itself."""
    model = create_model("efficientnet_b0", seed=0)
    blocks = [m for m in model.modules() if isinstance(m, InvertedResidual)]
    rates = {i: block.drop_path.rate for i, block in enumerate(blocks) if block.drop_path is not None}
    assert list(rates) == [2, 4, 6, 7, 9, 10, 12, 13, 14]
    assert rates == pytest.approx({i: 0.2 * i / 16 for i in rates})
    path = blocks[14].drop_path
    assert isinstance(path, DropPath)
    path.rate, branch, x = 0.5, nn.Identity(), torch.ones(64, 1, 1, 1)
    drawn = path(branch, x).flatten().tolist()
    assert set(drawn) == {0.0, 2.0}
    assert torch.equal(path.eval()(branch, x), x)


def test_weights_start_as_released() -> None:
    model = create_model("efficientnet_b0", seed=0)
    widen, _, _, filters, _, _, gate, narrow, _ = model.stages[4][2].branch
    assert (filters.kernel_size, filters.groups) == ((5, 5), 1152)
    for layer, fan_out in ((widen, 1152), (filters, 25), (gate.squeeze, 48), (gate.excite, 1152), (narrow, 192)):
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.02)
    assert model.stem[1].weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 32)), rel=0.06)
    classifier = model.head.classifier
    assert 0.99 / math.sqrt(1000) < classifier.weight.abs().max() <= 1 / math.sqrt(1000)
    assert classifier.weight.std().item() == pytest.approx(1 / math.sqrt(3 * 1000), rel=0.01)
    assert not any(bias.any() for bias in (classifier.bias, gate.squeeze.bias, gate.excite.bias))
    assert {(m.eps, m.momentum) for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {(1e-3, 0.01)}


@pytest.mark.parametrize("settings", [{"width": 0.0}, {"depth": -1.0}])
def test_settings_that_are_not_allowed(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="give multipliers above 0"):
        create_model("efficientnet_b0", **settings)
