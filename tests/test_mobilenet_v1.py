"""MobileNet (1704.04861): what is peculiar to it."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from backbones import create_model
from backbones.cost import measure_cost
from backbones.geometry import watch
from backbones.models.mobilenet_v1 import DepthwiseSeparable, Layer


def test_equations_2_5_and_6() -> None:
    """Sec. 3.1 and Table 3, for M = N = 512 channels on a 14x14 map: 462 M and 52.3 M multiply-adds, a ninth."""
    kernel, channels, side = 3, 512, 14
    with torch.device("meta"):
        dense, block = Layer().conv(channels, channels, kernel), DepthwiseSeparable(channels, channels)
    by_hand = kernel**2 * channels * side**2 + channels * channels * side**2
    full = kernel**2 * channels * channels * side**2
    assert measure_cost(block, (channels, side, side)).madds == by_hand == pytest.approx(52.3e6, rel=0.001)
    assert measure_cost(dense, (channels, side, side)).madds == full == pytest.approx(462e6, rel=0.001)
    assert by_hand / full == pytest.approx(1 / channels + 1 / kernel**2)
    thinner = DepthwiseSeparable(384, 384).to("meta")
    assert measure_cost(thinner, (384, side, side)).madds == pytest.approx(29.6e6, rel=0.001)  # alpha = 0.75
    assert measure_cost(thinner, (384, 10, 10)).madds == pytest.approx(15.1e6, rel=0.001)  # and rho = 0.714


def test_table_2() -> None:
    """Percent of the multiply-adds and of the weights. The first convolution is printed as 1.19, 1.91 turned round."""
    with torch.device("meta"):
        seen = watch(create_model("mobilenet_v1"), (3, 224, 224))
    madds, weights = dict.fromkeys(("1x1", "depthwise", "3x3", "fc"), 0), {}
    for layer, out in ((s.module, s.map) for s in seen if isinstance(s.module, nn.Conv2d | nn.Linear)):
        size = getattr(layer, "kernel_size", None)
        kind = "fc" if size is None else "1x1" if size == (1, 1) else "depthwise" if layer.groups > 1 else "3x3"
        madds[kind] += layer.weight.numel() * out.shape[2:].numel()
        weights[kind] = weights.get(kind, 0) + layer.weight.numel()
    for counts, printed in ((madds, [94.86, 3.06, 1.91, 0.18]), (weights, [74.59, 1.06, 0.02, 24.33])):
        assert [round(100 * counts[kind] / sum(counts.values()), 2) for kind in madds] == printed


def test_28_layers() -> None:
    """Sec. 3.2: depthwise and pointwise convolutions counted apart; Table 5's network has ten less."""

    def layers(name: str) -> int:
        with torch.device("meta"):
            return sum(isinstance(m, nn.Conv2d | nn.Linear) for m in create_model(name).modules())

    assert layers("mobilenet_v1") == 28
    assert layers("mobilenet_v1_shallow") == 28 - 2 * 5
    assert layers("mobilenet_v1_conv") == 15


def test_every_convolution_is_normalised_and_rectified() -> None:
    block, x = DepthwiseSeparable(4, 6, stride=2).eval(), torch.randn(2, 4, 8, 8)
    (_, depthwise, norm, _), (pointwise, _, _) = block.depthwise, block.pointwise
    norm.running_mean.uniform_(-1, 1)
    statistics = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    y = F.conv2d(F.pad(x, (0, 1, 0, 1)), depthwise.weight, stride=2, groups=4)  # SAME hangs over the far edge
    y = F.conv2d(F.relu(F.batch_norm(y, *statistics, eps=1e-3)), pointwise.weight)
    torch.testing.assert_close(block(x), F.relu(y / math.sqrt(1 + 1e-3)))


def test_timms_layers() -> None:
    with torch.device("meta"):
        paper, timm = create_model("mobilenet_v1"), create_model("mobilenet_v1.timm")
    kinds = [{type(m).__name__ for m in net.modules() if not list(m.children())} for net in (paper, timm)]
    assert kinds[0] - kinds[1] == {"ReLU", "SamePad"}
    assert kinds[1] - kinds[0] == {"ReLU6"}
    assert {m.eps for m in timm.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-5}
    assert (paper.head.dropout.p, timm.head.dropout.p) == (0.001, 0.0)


def test_width_scales_every_layer() -> None:
    """Sec. 3.3; 8 channels at least, as in the release."""
    for width in (0.75, 0.5, 0.25, 0.1):
        with torch.device("meta"):
            model = create_model("mobilenet_v1", width=width)
        expected = [max(int(c * width), 8) for c in (32, 64, 128, 256, 512, 1024)]
        assert model.feature_info.channels() == expected


def test_initialisation() -> None:
    """A normal distribution of deviation 0.09, cut at two deviations, which leaves 0.8796 of it."""
    model = create_model("mobilenet_v1", seed=0)
    for layer in (m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)):
        assert layer.weight.std().item() == pytest.approx(0.09 * 0.8796, rel=0.1)
        assert layer.weight.abs().max() <= 0.18
    pointwise = model.stages[4][1].pointwise[0]
    assert pointwise.weight.std().item() == pytest.approx(0.09 * 0.8796, rel=0.002)
    assert not model.head.classifier.bias.any()


@pytest.mark.parametrize("setting", [{"width": 0.0}, {"width": -1.0}, {"padding": "valid"}])
def test_settings_that_are_not_allowed(setting: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="give a width above 0 and one of same, symmetric"):
        create_model("mobilenet_v1", **setting)
