"""What is peculiar to wide ResNets."""

import math

import pytest
import torch
from torch import nn

from backbones import create_model


def by_formula(depth: int, width: int) -> int:
    """Parameters of WRN-d-k, group by group of Table 1."""
    blocks, narrow, total = (depth - 4) // 6, 16, 27 * 16
    for wide in (16 * width, 32 * width, 64 * width):
        first = 9 * narrow * wide + 9 * wide**2 + 2 * narrow + 2 * wide
        projection = narrow * wide if narrow != wide else 0
        total += first + projection + (blocks - 1) * (18 * wide**2 + 4 * wide)
        narrow = wide
    return total + 2 * narrow + 10 * narrow + 10


@pytest.mark.parametrize(("depth", "width"), [(10, 1), (16, 4), (28, 10), (52, 1), (100, 3)])
def test_the_rule_is_open(depth: int, width: int) -> None:
    with torch.device("meta"):
        model = create_model("wrn_28_10", depth=depth, width=width)
    assert sum(p.numel() for p in model.parameters()) == by_formula(depth, width)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert len(layers) == depth - (width == 1)  # conv1 and three projections; two where 16 channels stay 16


def test_the_first_unit_of_a_network_of_width_1_passes_its_input_on() -> None:
    """The release activates the shortcut's input only where the size changes."""
    with torch.device("meta"):
        thin, wide = create_model("wrn_40_1").stages[0][0], create_model("wrn_40_2").stages[0][0]
    assert not thin.activation
    assert isinstance(thin.shortcut, nn.Identity)
    assert len(wide.activation) == 2
    assert isinstance(wide.shortcut, nn.Conv2d)


def test_dropout_stands_between_the_convolutions_of_each_block() -> None:
    """Sec. 2.4; the classifier has none."""
    with torch.device("meta"):
        model = create_model("wrn_16_4", drop_rate=0.3)
    for unit in (unit for stage in model.stages for unit in stage[:2]):
        kinds = [type(m).__name__ for m in unit.branch]
        assert kinds[-5:] == ["Conv2d", "BatchNorm2d", "ReLU", "Dropout", "Conv2d"]
        assert unit.branch[-2].p == 0.3
    assert model.head.dropout.p == 0.0


def test_only_the_3x3_of_a_bottleneck_is_wider() -> None:
    with torch.device("meta"):
        block = create_model("wide_resnet50_2").stages[1][0]
        basic = create_model("wrn_18_x1_5").stages[0][1]
    shapes = [(m.in_channels, m.out_channels, m.stride[0]) for m in block.branch if isinstance(m, nn.Conv2d)]
    assert shapes == [(256, 256, 1), (256, 256, 2), (256, 512, 1)]
    assert [m.weight.shape[:2] for m in basic.branch if isinstance(m, nn.Conv2d)] == [(96, 64), (96, 96)]


@pytest.mark.parametrize(("name", "fan"), [("wrn_16_8", "out"), ("wrn_18_x1_5", "in")])
def test_initialisation(name: str, fan: str) -> None:
    """The release: N(0, 2 / fan_out) on CIFAR, N(0, 2 / fan_in) on ImageNet; Torch's classifier without bias."""
    model = create_model(name, seed=0)
    for conv in [m for m in model.stages[2].modules() if isinstance(m, nn.Conv2d)][:3]:
        channels = conv.out_channels if fan == "out" else conv.in_channels
        expected = math.sqrt(2 / (channels * conv.kernel_size[0] ** 2))
        assert conv.weight.std().item() == pytest.approx(expected, rel=0.01)
    bound = model.num_features**-0.5
    assert 0.99 * bound < model.head.classifier.weight.abs().max() <= bound
    assert model.head.classifier.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)
    assert not model.head.classifier.bias.any()
    assert all((m.weight == 1).all() for m in model.modules() if isinstance(m, nn.BatchNorm2d))


@pytest.mark.parametrize(
    ("name", "setting", "said"),
    [
        ("wrn_28_10", {"depth": 27}, r"depth=27; give 6n \+ 4"),
        ("wrn_28_10", {"depth": 4}, r"depth=4; give 6n \+ 4"),
        ("wrn_28_10", {"width": 0}, "width=0; give a factor"),
        ("wrn_28_10", {"width": 1.03}, "width=1.03; give a factor"),
        ("wide_resnet50_2", {"depth": 28}, r"depth=28; give one of \[18"),
    ],
)
def test_settings_that_are_not_allowed(name: str, setting: dict[str, object], said: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=said):
        create_model(name, **setting)
