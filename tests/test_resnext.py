"""What is peculiar to ResNeXt: many branches are one grouped convolution."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones import create_model


def branches(block: nn.Module, x: Tensor, groups: int) -> list[Tensor]:
    """The low-dimensional ends of the C branches of Fig. 3, each by its own 1x1 and 3x3 convolution."""
    conv1, norm1, _, conv2, norm2, *_ = block.branch
    ends = []
    width = conv1.out_channels // groups
    for own in (slice(i * width, (i + 1) * width) for i in range(groups)):
        y = x
        for weight, norm, stride in ((conv1.weight, norm1, 1), (conv2.weight, norm2, conv2.stride)):
            y = F.conv2d(y, weight[own], stride=stride, padding=weight.shape[-1] // 2)
            statistics = norm.running_mean[own], norm.running_var[own]
            y = F.relu(F.batch_norm(y, *statistics, norm.weight[own], norm.bias[own], eps=norm.eps))
        ends.append(y)
    return ends


@pytest.mark.parametrize(("stage", "index"), [(0, 2), (1, 0)])
def test_the_three_forms_of_figure_3_agree(stage: int, index: int) -> None:
    """(a) the branches summed, batch norm behind the sum; (b) concatenated; (c) ours, also where the map halves."""
    block = create_model("resnext50_32x4d", seed=0).double().eval().stages[stage][index]
    generator = torch.Generator().manual_seed(0)
    for norm in (m for m in block.modules() if isinstance(m, nn.BatchNorm2d)):
        for values in (norm.running_mean, norm.running_var, norm.weight.data, norm.bias.data):
            values.uniform_(0.5, 1.5, generator=generator)
    x = torch.randn(2, 256, 6, 6, dtype=torch.float64, generator=generator)
    last, norm = block.branch[6], block.branch[7]
    with torch.no_grad():
        ends = branches(block, x, groups=32)
        slices = last.weight.split(ends[0].shape[1], dim=1)
        summed = norm(sum(F.conv2d(end, own) for end, own in zip(ends, slices, strict=True)))
        joined = norm(F.conv2d(torch.cat(ends, 1), last.weight))
        ours = block.branch(x)
        torch.testing.assert_close(summed, ours)
        torch.testing.assert_close(joined, ours)
        torch.testing.assert_close(block(x), F.relu(block.shortcut(x) + summed))
    assert len(ends) == 32


@pytest.mark.parametrize(("c", "d"), [(1, 64), (2, 40), (4, 24), (8, 14), (32, 4)])
def test_parameters_of_a_block_are_equation_4(c: int, d: int) -> None:
    with torch.device("meta"):
        block = create_model(f"resnext50_{c}x{d}d").stages[0][2]
    convs = [m for m in block.modules() if isinstance(m, nn.Conv2d)]
    assert sum(m.weight.numel() for m in convs) == c * (256 * d + 3 * 3 * d * d + d * 256)


def test_strides_stand_in_the_3x3_and_projections_are_few() -> None:
    with torch.device("meta"):
        model = create_model("resnext50_32x4d")
    for stage, first in zip(model.stages, (1, 0, 0, 0), strict=True):
        blocks = list(stage)[first:]
        assert [m.stride[0] for m in blocks[0].branch if isinstance(m, nn.Conv2d)] == [1, 1 if first else 2, 1]
        assert [isinstance(b.shortcut, nn.Identity) for b in blocks] == [False] + [True] * (len(blocks) - 1)


def test_starts_as_he_says() -> None:
    """N(0, 2 / fan-in) with the fan-in of one branch (Sec. 4: the initialisation of He et al.)."""
    model = create_model("resnext50_32x4d", seed=0)
    block = model.stages[3][1]
    for layer, fan_in in ((block.branch[0], 2048), (block.branch[3], 9 * 32), (block.branch[6], 1024)):
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=0.01)
    assert model.head.classifier.weight.std().item() == pytest.approx(math.sqrt(2 / 2048), rel=0.01)
    assert not model.head.classifier.bias.any()
    assert all((m.weight == 1).all() for m in model.modules() if isinstance(m, nn.BatchNorm2d))


@pytest.mark.parametrize(
    ("name", "setting", "said"),
    [
        ("resnext50_32x4d", {"depth": 34}, "depth=34; give one of 50, 101, 152"),
        ("resnext50_32x4d", {"cardinality": 0}, "cardinality=0, width=4; give 1 or more"),
        ("resnext29_8x64d_cifar", {"width": 0}, "cardinality=8, width=0; give 1 or more"),
        ("resnext29_8x64d_cifar", {"depth": 30}, "depth=30; give 9n"),
    ],
)
def test_settings_that_are_not_allowed(name: str, setting: dict[str, int], said: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=said):
        create_model(name, **setting)
