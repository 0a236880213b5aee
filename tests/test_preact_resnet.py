"""What is peculiar to pre-activation ResNets."""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones import create_model
from backbones.models.preact_resnet import PreActUnit


def activated(x: Tensor, norm: nn.Module) -> Tensor:
    """Batch norm by its formula, then ReLU."""
    mean, var = norm.running_mean[:, None, None], norm.running_var[:, None, None]
    return ((x - mean) / (var + norm.eps).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]).relu()


def test_110_layers_by_hand() -> None:
    """Appendix and Fig. 4(e), at a depth of 8: one unit that shares the stem's activation, two that change the size."""
    model = create_model("preact_resnet110_cifar", depth=8, seed=0).double().eval()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    convs = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.2, 0.2)
        norm.running_mean.uniform_(-0.1, 0.1)
        norm.running_var.uniform_(0.5, 1.5)
    images = torch.randn(2, 3, 13, 16, dtype=torch.float64)
    x = activated(F.conv2d(images, convs[0], padding=1), norms[0])
    x = x + F.conv2d(activated(F.conv2d(x, convs[1], padding=1), norms[1]), convs[2], padding=1)
    for i, (narrow, wide) in ((3, (16, 32)), (5, (32, 64))):
        x = activated(x, norms[i - 1])  # for both ways: the size changes
        branch = F.conv2d(activated(F.conv2d(x, convs[i], stride=2, padding=1), norms[i]), convs[i + 1], padding=1)
        x = torch.cat([x[..., ::2, ::2], x.new_zeros(2, wide - narrow, *branch.shape[2:])], 1) + branch
    pooled = activated(x, norms[-1]).mean((2, 3))
    expected = pooled @ model.head.classifier.weight.T + model.head.classifier.bias
    torch.testing.assert_close(model(images), expected)


def test_activations_are_shared_where_the_size_changes() -> None:
    with torch.device("meta"):
        for name in ("preact_resnet50", "preact_resnet164_cifar"):
            model = create_model(name)
            units = [m for m in model.modules() if isinstance(m, PreActUnit)]
            assert not units[0].activation
            assert isinstance(units[0].branch[0], nn.Conv2d)
            for before, unit in pairwise(units):
                changes = before.branch[-1].out_channels != unit.branch[-1].out_channels
                assert bool(unit.activation) == isinstance(unit.shortcut, nn.Conv2d) == changes
                assert isinstance(unit.branch[0], nn.Conv2d if changes else nn.BatchNorm2d)
            assert [type(m).__name__ for m in model.stages[-1][-2:]] == ["BatchNorm2d", "ReLU"]


def test_timms_twin_pools_before_it_normalises() -> None:
    with torch.device("meta"):
        paper, twin = create_model("preact_resnet50"), create_model("preact_resnet50.timm")
    assert [type(m).__name__ for m in paper.stem] == ["Conv2d", "BatchNorm2d", "ReLU"]
    assert [type(m).__name__ for m in twin.stem] == ["Conv2d"]
    assert len(twin.stages[0][1].activation) == 2
    strides = lambda model: [m.stride[0] for m in model.stages[1][0].branch if isinstance(m, nn.Conv2d)]  # noqa: E731
    assert (strides(paper), strides(twin)) == ([2, 1, 1], [1, 2, 1])


def test_a_dropped_unit_is_its_input() -> None:
    """An activation of the branch alone is dropped with it: its statistics stay."""
    unit = create_model("preact_resnet110_cifar", depth=14, drop_path_rate=0.5).stages[0][1].train()
    unit.drop_path.rate = 1.0
    x = torch.randn(2, 16, 8, 8)
    assert torch.equal(unit(x), x)
    assert unit.branch[0].num_batches_tracked == 0


def test_initialisation() -> None:
    """N(0, 2 / fan_in) everywhere (Appendix: as in He et al. 2015)."""
    model = create_model("preact_resnet50", seed=0)
    for layer in (model.stages[3][1].branch[4], model.stages[2][0].shortcut, model.stages[3][1].branch[2]):
        if isinstance(layer, nn.Conv2d):
            fan_in = layer.in_channels * layer.kernel_size[0] ** 2
            assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=0.01)
    assert model.head.classifier.weight.std().item() == pytest.approx(math.sqrt(2 / 2048), rel=0.01)
    assert not model.head.classifier.bias.any()
    assert all((m.weight == 1).all() for m in model.modules() if isinstance(m, nn.BatchNorm2d))


@pytest.mark.parametrize(
    ("name", "setting", "said"),
    [
        ("preact_resnet50", {"depth": 77}, "depths are .*200"),
        ("preact_resnet50", {"stride_in": "5x5"}, "1x1 or 3x3"),
        ("preact_resnet164_cifar", {"depth": 111}, r"depth=111; give 9n \+ 2, such as 164 or 1001"),
        ("preact_resnet110_cifar", {"depth": 21}, r"depth=21; give 6n \+ 2, such as 110"),
        ("preact_resnet110_cifar", {"shortcut": "C"}, "shortcut='C'"),
        ("preact_resnet164_cifar", {"unit": "post"}, "units original or pre-activation"),
    ],
)
def test_settings_that_are_not_allowed(name: str, setting: dict[str, object], said: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=said):
        create_model(name, **setting)


def test_keras_strides_in_the_last_unit_of_a_row() -> None:
    """Which is the first of our stage: stages end where the map does, rows of units where the channels grow."""
    with torch.device("meta"):
        model = create_model("preact_resnet50.keras")
    units = [[m for m in stage if hasattr(m, "branch")] for stage in model.stages]
    assert [len(stage) for stage in units] == [2, 4, 6, 4]
    assert [type(stage[0].shortcut).__name__ for stage in units] == ["Conv2d", *["MaxPool2d"] * 3]
    projections = [i for stage in units for i, unit in enumerate(stage) if isinstance(unit.shortcut, nn.Conv2d)]
    assert projections == [0, 1, 1, 1]
    biased = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.bias is not None]
    assert len(biased) == 1 + 4 + 16
    assert model.feature_info.reduction()[1:] == [4, 8, 16, 32]
    with pytest.raises(ValueError, match=r"release='keras', norm_in_stem=True; give paper, or keras without norm"):
        create_model("preact_resnet50", release="keras")
