"""What is peculiar to networks of stochastic depth."""

import math

import pytest
import torch
from torch import Tensor, nn

from backbones import create_model
from backbones.backbone import Backbone
from backbones.layers import DropPath
from backbones.models.resnet import ResidualBlock


def blocks_of(model: Backbone) -> list[ResidualBlock]:
    return [m for m in model.modules() if isinstance(m, ResidualBlock)]


def constant_branches(model: Backbone) -> list[int]:
    """Every branch now returns zeros and notes its block."""
    ran: list[int] = []

    class Noted(nn.Module):
        def __init__(self, number: int, branch: nn.Module) -> None:
            super().__init__()
            self.number, self.stride = number, next(m.stride for m in branch if isinstance(m, nn.Conv2d))
            self.channels = branch[0].out_channels

        def forward(self, x: Tensor) -> Tensor:
            ran.append(self.number)
            return x.new_zeros(len(x), self.channels, *(s // t for s, t in zip(x.shape[2:], self.stride, strict=True)))

    for number, block in enumerate(blocks_of(model), 1):
        block.branch = Noted(number, block.branch)
    return ran


def test_survival_falls_linearly_from_the_first_block() -> None:
    """Eq. 4, L = 54 and p_L = 0.5; the blocks that change the size drop out as well."""
    with torch.device("meta"):
        for name, length in (("resnet110_sd_cifar", 54), ("resnet152_sd_svhn", 75), ("resnet152_sd", 50)):
            survival = [1 - block.drop_path.rate for block in blocks_of(create_model(name))]
            assert survival == pytest.approx([1 - n / length * (1 - 0.5) for n in range(1, length + 1)])
            assert survival[-1] == 0.5


def test_the_expected_number_of_blocks_run() -> None:
    """Sec. 3: (3L - 1) / 4, about 40 of 54; how often each block runs is its probability of survival."""
    model, steps, length = create_model("resnet110_sd_cifar").train(), 1500, 54
    ran = constant_branches(model)
    model.draws.seed = 7
    images = torch.zeros(2, 3, 4, 4)
    with torch.no_grad():
        for step in range(steps):
            model.draws.step = step
            model(images)
    survival = [1 - block.drop_path.rate for block in blocks_of(model)]
    assert sum(survival) == pytest.approx((3 * length - 1) / 4)
    deviation = math.sqrt(sum(p * (1 - p) for p in survival) / steps)
    assert len(ran) / steps == pytest.approx((3 * length - 1) / 4, abs=4 * deviation)
    for number, p in enumerate(survival, 1):
        assert ran.count(number) / steps == pytest.approx(p, abs=4.5 * math.sqrt(p * (1 - p) / steps)), number


def test_one_coin_for_the_whole_batch_and_a_dropped_block_is_not_computed() -> None:
    block = create_model("resnet110_sd_cifar", depth=8).stages[1][0].train()
    block.drop_path.rate = 1.0
    x = torch.randn(2, 16, 8, 8)
    shortcut = block.shortcut(x)
    assert torch.equal(block(x), shortcut.relu())
    assert block.branch[1].num_batches_tracked == 0
    block.drop_path.rate = 1e-9
    torch.testing.assert_close(block(x), (shortcut + block.branch(x)).relu())
    assert block.branch[1].num_batches_tracked > 0


def test_shortcuts_pool_and_pad() -> None:
    """The mean of 2x2 values, zeros for the new channels; odd sides round up as the branch's do."""
    block = create_model("resnet110_sd_cifar", depth=8).stages[1][0]
    x = torch.randn(2, 16, 8, 6)
    mean = (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
    torch.testing.assert_close(block.shortcut(x), torch.cat([mean, torch.zeros_like(mean)], 1))
    assert not list(block.shortcut.parameters())
    odd = torch.randn(2, 16, 7, 5)
    assert block.shortcut(odd).shape == block.branch(odd).shape


def test_at_test_time_a_branch_counts_as_often_as_it_survived() -> None:
    """Eq. 5."""
    block = create_model("resnet110_sd_cifar", depth=8, seed=0).stages[2][0].eval()
    assert block.drop_path.rate == 0.5
    x = torch.randn(2, 32, 8, 8)
    torch.testing.assert_close(block(x), (block.shortcut(x) + 0.5 * block.branch(x)).relu())


def test_by_row_the_expectation_is_the_same() -> None:
    """Each image for itself, survivors divided by 1 - rate, nothing to do at test time."""
    model = create_model("resnet110_sd_cifar", depth=8, drop_path_mode="row")
    paths = [m for m in model.modules() if isinstance(m, DropPath)]
    assert {path.mode for path in paths} == {"row"}
    path, branch, x = paths[1].train(), nn.Identity(), torch.ones(20_000, 1, 1, 1)
    values = path(branch, x)
    assert sorted(set(values.flatten().tolist())) == pytest.approx([0.0, 1 / (1 - path.rate)])
    kept = 1 - path.rate
    assert values.mean().item() == pytest.approx(1.0, abs=4 * math.sqrt(path.rate / kept / len(x)))
    assert torch.equal(path.eval()(branch, x), x)


def test_initialisation() -> None:
    """N(0, 2 / fan_in) of every convolution (the release)."""
    for conv in (m for m in create_model("resnet110_sd_cifar", seed=0).stages[2].modules() if isinstance(m, nn.Conv2d)):
        assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * conv.in_channels)), rel=0.03)


def test_depths_are_checked() -> None:
    with torch.device("meta"):
        assert len(create_model("resnet110_sd_cifar", depth=20).stages[0]) == 3
        with pytest.raises(ValueError, match=r"depth=21; give 6n \+ 2, such as 110"):
            create_model("resnet110_sd_cifar", depth=21)
