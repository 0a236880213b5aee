"""Strides and receptive fields against gradients; finer maps against the coarse ones; random paths."""

import copy

import pytest
import torch
from torch import Tensor, nn

from backbones import create_model
from backbones.backbone import Backbone
from backbones.dilation import set_output_stride
from backbones.geometry import watch
from backbones.layers import DropPath

SMALL = ("lenet5", "lenet5.modern", "alexnet", "zfnet", "vgg11_lrn", "resnet20_cifar", "plain20_cifar", "resnet18.tv")


def seen_by(model: Backbone, stage: int, side: int, position: int) -> tuple[int, int]:
    """First and last row of the image that one value of a map depends on, by its gradient."""
    images = torch.rand(1, model.in_channels, side, side, dtype=torch.float64, requires_grad=True)
    model.features(images)[stage][0, :, position, position].sum().backward()
    rows = images.grad[0].abs().sum((0, 2)).nonzero().flatten()
    return int(rows[0]), int(rows[-1])


def open_up(model: Backbone) -> Backbone:
    """Positive weights, no biases, means for maxima: every path counts and none is switched off by a ReLU."""
    model = model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.rand_like(parameter) / parameter[0].numel())
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.MaxPool2d):
                setattr(parent, name, nn.AvgPool2d(child.kernel_size, child.stride, child.padding))
    return model


@pytest.mark.parametrize("name", SMALL)
def test_receptive_fields_by_gradient(name: str) -> None:
    model = open_up(create_model(name, num_classes=0, seed=0))
    infos = model.feature_info
    for stage in range(len(infos) - 2 if infos[-1].receptive_field > 200 else len(infos)):
        info = infos[stage]
        side = max(2 * info.receptive_field + 8 * info.reduction, model.min_size)
        maps = model.features(torch.rand(1, model.in_channels, side, side, dtype=torch.float64))
        position = maps[stage].shape[-1] // 2
        first, last = seen_by(model, stage, side, position)
        assert last - first + 1 == info.receptive_field, info
        after = seen_by(model, stage, side, position + 1)
        assert after == (first + info.reduction, last + info.reduction), info


def geometry_of(module: nn.Module, channels: int = 1) -> object:
    return watch(module, (channels, 64, 64))[-1].after


class Sum(nn.Module):
    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        total = self.branches[0](x)
        for branch in self.branches[1:]:
            total = total + branch(x)
        return total


class Pad(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pad(x, (1, 2, 3, 4))[:, :, 1:, ::2]


def test_geometry_of_known_modules() -> None:
    conv = geometry_of(nn.Sequential(nn.Conv2d(1, 1, (1, 7), stride=2, padding=(0, 3)), nn.ReLU(inplace=True)))
    assert (conv.stride, conv.receptive_field, conv.low) == ((2, 2), (1, 7), (0, -3))
    dilated = geometry_of(nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(1, 1, 3, dilation=3)))
    assert (dilated.stride, dilated.receptive_field) == ((2, 2), (14, 14))
    union = geometry_of(Sum(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 5, padding=2), nn.MaxPool2d(3, 1, 1)))
    assert (union.low, union.high) == ((-2, -2), (2, 2))
    padded = geometry_of(Pad())
    assert (padded.stride, padded.low) == ((1, 2), (-2, -1))
    assert geometry_of(nn.AdaptiveAvgPool2d(1)) is None
    assert geometry_of(nn.ConvTranspose2d(1, 1, 3)) is None
    assert geometry_of(nn.InstanceNorm2d(1)) is None  # statistics of the whole map
    whole = nn.Sequential(nn.GroupNorm(1, 1), nn.Conv2d(1, 1, 3, padding=1))
    assert geometry_of(Sum(nn.Conv2d(1, 1, 1), whole)) is None  # and what it is added to
    assert geometry_of(Sum(nn.Identity(), nn.Sequential(nn.MaxPool2d(2), nn.Upsample(scale_factor=2)))) is None


def test_watching_changes_nothing() -> None:
    model = create_model("resnet20_cifar", seed=0).train()
    model.stages[0].eval()
    before = copy.deepcopy(model.state_dict())
    watch(model, (3, 32, 32))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.training
    assert not model.stages[0].training
    assert not any(m._forward_hooks for m in model.modules())


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("name", ["alexnet", "vgg11", "resnet18.tv", "resnet50"])
def test_finer_maps_contain_the_coarse_ones(name: str, output_stride: int) -> None:
    """A trous: every stride-th value of the dilated map is the value of the strided one, borders included."""
    model = create_model(name, num_classes=0, seed=0).double().eval()
    side = 131 if name == "alexnet" else 128
    images = torch.randn(1, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        coarse, strides = model.features(images), model.feature_info.reduction()
        set_output_stride(model, output_stride)
        fine = model.features(images)
    for before, after, stride, finer in zip(coarse, fine, strides, model.feature_info.reduction(), strict=True):
        times = stride // finer
        torch.testing.assert_close(after[..., ::times, ::times][..., : before.shape[-1], : before.shape[-1]], before)
    assert fine[-1].shape[-1] >= coarse[-1].shape[-1] * (32 // output_stride - 1)


def test_overhanging_pools_keep_their_windows() -> None:
    from backbones.dilation import _spread_pool

    x = torch.randn(1, 2, 11, 14)
    for pool in (nn.MaxPool2d(2), nn.MaxPool2d(3, 2, ceil_mode=True), nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(3, 2)):
        fine = _spread_pool(pool, 1, 1)(x)
        coarse = pool(x)
        assert torch.equal(fine[..., ::2, ::2][..., : coarse.shape[2], : coarse.shape[3]], coarse)
        assert fine[..., ::2, ::2].shape == coarse.shape or not pool.ceil_mode


def residual(rate: float) -> tuple[Backbone, list[DropPath]]:
    model = create_model("resnet20_cifar", drop_path_rate=rate, seed=0)
    return model, [m for m in model.modules() if isinstance(m, DropPath)]


def test_drop_path_draws_are_a_function_of_seed_step_and_place() -> None:
    model, paths = residual(0.5)
    model.draws.seed, model.draws.step = 3, 7
    coins = [p.draws.coin(p.place) for p in paths]
    assert len(set(coins)) == len(coins) == 9
    twin, twins = residual(0.5)
    twin.draws.seed, twin.draws.step = 3, 7
    assert [p.draws.coin(p.place) for p in twins] == coins
    twin.draws.step = 8
    assert [p.draws.coin(p.place) for p in twins] != coins
    draws = [model.draws.coin(0) for model.draws.step in range(4000)]
    assert sum(d < 0.3 for d in draws) / 4000 == pytest.approx(0.3, abs=0.03)


def test_a_dropped_block_is_not_computed_and_survival_scales() -> None:
    model, paths = residual(0.5)
    ran = []
    for block in (b for stage in model.stages for b in stage):
        block.branch.register_forward_hook(lambda *_, block=block: ran.append(block))
    model.train()
    model.draws.step = 1
    images = torch.randn(2, 3, 32, 32)
    model(images)
    kept = [p for p in paths if p.draws.coin(p.place) >= p.rate]
    assert [b.drop_path for b in ran] == kept
    assert len(kept) < len(paths)
    block = model.eval().stages[2][2]
    x = torch.randn(1, 64, 8, 8)
    torch.testing.assert_close(block(x), torch.relu(x + 0.5 * block.branch(x)))
    assert copy.deepcopy(model).stages[2][2].drop_path.draws is not model.draws
