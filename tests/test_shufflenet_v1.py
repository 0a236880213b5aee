"""What is peculiar to ShuffleNet."""

import math

import pytest
import torch
from torch import nn

from backbones import create_model
from backbones.models.resnet import ResidualBlock
from backbones.models.shufflenet_v1 import ChannelShuffle, StridedUnit


def test_shuffle_deals_each_group_to_all_groups() -> None:
    """Fig. 1: twelve channels of three groups; every new group of four has channels of each old one."""
    x = torch.arange(12.0).view(1, 12, 1, 1).expand(2, 12, 3, 4)
    shuffled = ChannelShuffle(3)(x)
    assert shuffled[0, :, 0, 0].tolist() == [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]
    assert torch.equal(ChannelShuffle(4)(shuffled), x)
    assert torch.equal(ChannelShuffle(1)(x), x)


def test_a_unit_sees_all_groups_because_it_shuffles() -> None:
    branch = create_model("shufflenet_v1_g3_x1_0", seed=0).stages[0][1].branch.double().eval()
    unshuffled = nn.Sequential(*(m for m in branch if not isinstance(m, ChannelShuffle)))
    x = torch.rand(1, 240, 3, 3, dtype=torch.float64, requires_grad=True)
    for layers, expected in ((branch, [True, True, True]), (unshuffled, [True, False, False])):
        (gradient,) = torch.autograd.grad(layers(x)[0, 0, 1, 1], x)
        assert [group.any().item() for group in gradient[0].chunk(3)] == expected


def test_units_are_figure_2() -> None:
    model = create_model("shufflenet_v1_g3_x1_0", seed=0).eval()
    assert [[type(unit) for unit in stage] for stage in model.stages] == [
        [StridedUnit] + [ResidualBlock] * more for more in (3, 7, 3)
    ]
    kinds = [type(m).__name__ for m in model.stages[0][1].branch]
    assert kinds == ["Conv2d", "BatchNorm2d", "ReLU", "ChannelShuffle", *["Conv2d", "BatchNorm2d"] * 2]
    groups = [m.groups for stage in model.stages for m in stage[0].branch if isinstance(m, nn.Conv2d)]
    assert groups == [1, 60, 3, 3, 120, 3, 3, 240, 3]
    x = torch.rand(2, 24, 8, 8)
    unit = model.stages[0][0]
    out = unit(x)
    torch.testing.assert_close(out[:, :24], nn.functional.avg_pool2d(x, 3, 2, 1))
    torch.testing.assert_close(out[:, 24:], unit.branch(x).relu())


def test_parameters_by_hand() -> None:
    """Table 1 once more: a unit of c -> d through m = d/4 channels in g groups."""
    for g, c in {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}.items():
        total, before = 27 * 24 + 2 * 24, 24
        for stage, units in enumerate((4, 8, 4)):
            out, middle = c * 2**stage, c * 2**stage // 4
            for unit in range(units):
                first = 1 if (stage, unit) == (0, 0) else g
                added = out - before if unit == 0 else out
                total += before * middle // first + 9 * middle + middle * added // g + 2 * (2 * middle + added)
                before = out
        total += before * 1000 + 1000
        assert sum(p.numel() for p in create_model(f"shufflenet_v1_g{g}_x1_0").parameters()) == total


def test_the_receptive_field_and_strides_pass_the_shuffle() -> None:
    """The depthwise windows add to the field by their strides: 3 x 3 at 2, pooled at 4, then one per unit."""
    field, stride, expected = 3 + 2 * 2, 4, []
    for units in (4, 8, 4):
        field, stride = field + 2 * stride, 2 * stride
        field += (units - 1) * 2 * stride
        expected.append(field)
    info = create_model("shufflenet_v1_g2_x1_0").feature_info
    assert [f.receptive_field for f in info[1:]] == expected
    assert info.reduction() == [4, 8, 16, 32]


FINER: tuple[dict[str, int], ...] = ({}, {"output_stride": 8})


def test_finer_maps_hold_the_old_ones() -> None:
    plain, fine = (create_model("shufflenet_v1_g3_x0_25", seed=0, **s).double().eval() for s in FINER)
    x = torch.randn(1, 3, 96, 96, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(fine.forward_features(x)[..., ::4, ::4], plain.forward_features(x))


def test_weights_start_as_he_says() -> None:
    model = create_model("shufflenet_v1_g3_x2_0", seed=0)
    first, _, _, _, depthwise, _, last, _ = model.stages[2][1].branch
    assert (first.groups, depthwise.groups, last.groups) == (3, 480, 3)
    for layer, fan_in in ((first, 1920 / 3), (depthwise, 9), (last, 480 / 3), (model.head.classifier, 1920)):
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=0.03)


@pytest.mark.parametrize("settings", [{"groups": 5}, {"width": 0.75}])
def test_settings_that_are_not_allowed(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"groups are \[1, 2, 3, 4, 8\], widths \[0.25, 0.5, 1.0, 1.5, 2.0\]"):
        create_model("shufflenet_v1_g3_x1_0", **settings)
