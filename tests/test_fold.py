"""Networks with their norms folded, and packed for torch: the same function."""

import pytest
import torch
from filled import off, trained_like
from networks import SMALLEST
from torch import Tensor, nn

from backbones import create_model, model_info
from backbones.catalog import load
from backbones.infer.packed import pack
from backbones.infer.source import Source

NORMS_LEFT = {"densenet": 1.0, "preact_resnet": 0.6, "wide_resnet": 0.6, "senet_others": 0.5, "nasnet": 0.05}
"""share of the norms that nothing can take in, at most: those that come before a convolution; none elsewhere"""
MANY_LAYERS = {
    "nasnet_a_6_768_cifar",
    "inception_v4",
    "inception_resnet_v1",
    "fractalnet40_cifar",
    "se_resnet110_cifar",
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in MANY_LAYERS else []) for n in sorted(SMALLEST)]
)
def test_folding_changes_nothing(name: str) -> None:
    """In double precision, where only the folding itself could; and packed in single, for another batch too."""
    channels, height, width = model_info(name).input_size
    side = (height, width) if height < 100 else (max(64, load()[name]["measured"]["min_size"]),) * 2
    model = trained_like(create_model(name, seed=0))
    images = torch.randn(2, channels, *side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        single = Source(model, (images,), 1)
        packed = pack(single.folded(), (images,), torch.float32)
        assert single.any_batch
        three = torch.cat([images, images[:1]])
        rounded, fast = [model(three), single.folded()(three)], packed(three)
        folded = Source(model.double(), (images.double(),), 1).folded()
        expected = model(three.double())
        assert off(expected, folded(three.double())) < 1e-11
        assert off(expected, fast.double()) < 1e-5 + 4 * max(off(expected, x.double()) for x in rounded)
    norms = sum(isinstance(part, nn.BatchNorm2d) for part in model.modules())
    left = sum("batch_norm" in str(node.target) for node in folded.graph.nodes)
    assert left <= NORMS_LEFT.get(load()[name]["family"], 0) * norms


def norms_left(net: nn.Module) -> int:
    """How many batch norms of a network of 4 channels are not folded; its answers stay in float64."""
    net, images = net.double(), torch.randn(2, 4, 5, 5, dtype=torch.float64)
    folded = Source(net, (images,), 1).folded()
    torch.testing.assert_close(folded(images), net(images), rtol=1e-12, atol=1e-12)
    return sum("batch_norm" in str(node.target) for node in folded.graph.nodes)


def test_a_norm_before_unpadded_convolutions_is_folded_into_them() -> None:
    """Two that read it, one of them in groups: scaled by hand, channel by channel."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.one, self.two = nn.BatchNorm2d(4), nn.Conv2d(4, 6, 1), nn.Conv2d(4, 6, 2, groups=2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(x)
            return self.one(y).mean((2, 3)) + self.two(y).mean((2, 3))

    assert norms_left(trained_like(Net())) == 0


def test_a_norm_after_convolutions_beside_each_other_is_folded_into_each() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.norm = nn.Conv2d(4, 2, 3, padding=1), nn.Conv2d(4, 3, 1), nn.BatchNorm2d(5)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(torch.cat([self.one(x), self.two(x)], 1))

    assert norms_left(trained_like(Net())) == 0


def test_a_norm_before_a_border_of_zeros_stays() -> None:
    assert norms_left(trained_like(nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding=1)))) == 1


@pytest.mark.parametrize(
    "activation", [nn.ReLU(), nn.ReLU6(), nn.Hardtanh(-2, 3), nn.SiLU(), nn.Hardswish(), nn.Tanh()]
)
def test_activations_within_convolutions(activation: nn.Module) -> None:
    """Also where they are bent: the networks above seldom reach 6."""
    net = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), activation).eval()
    images = 20 * torch.randn(2, 4, 9, 9, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        packed = pack(Source(net, (images,), 1).folded(), (images,), torch.float32)
        torch.testing.assert_close(packed(images), net(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("swapped", [False, True])
def test_additions_within_convolutions(swapped: bool) -> None:
    """x + conv(x), relu after it; the sum also where the convolution stands first, and where it is read twice."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.one(x)
            y = torch.relu(y + x if swapped else x + y)
            z = self.two(y)
            return torch.relu(z + y) + z  # z is read twice: nothing may take it in

    net, images = Net().eval(), torch.randn(3, 4, 6, 6)
    packed = pack(Source(net, (images,), 1).folded(), (images,), torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(packed(images), net(images), rtol=1e-5, atol=1e-6)
        assert packed(images).equal(packed(images))  # nothing is written over


def test_operators_that_write_over_what_they_read() -> None:
    """Nothing is moved past them: an activation and an addition in place, before a sum."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.last = nn.Conv2d(4, 4, 3, padding="same"), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = x * 2
            y, z = self.conv(x), self.norm(x)
            x = nn.functional.relu_(x)
            x = x + y
            x.add_(1)
            return self.last(z) + nn.functional.relu_(x)

    net, images = trained_like(Net()), torch.randn(2, 4, 6, 6)
    packed = pack(Source(net, (images,), 1).folded(), (images,), torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(packed(images), net(images), rtol=1e-5, atol=1e-5)
        assert "conv2d" not in packed.code
        torch.testing.assert_close(packed(images[:1]), net(images[:1]), rtol=1e-5, atol=1e-5)


def test_what_cannot_be_folded_is_left() -> None:
    """A norm and a bias that are computed; a linear layer whose features are not what the norm scales."""

    class Computed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.gain = nn.Conv2d(4, 4, 1), nn.Parameter(torch.rand(4))
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            y = nn.functional.batch_norm(self.conv(x), self.norm.running_mean, self.norm.running_var, 1 + self.gain)
            return self.norm(nn.functional.conv2d(y, self.conv.weight, 3 * self.gain))

    features = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)).eval()
    assert isinstance(features[1], nn.BatchNorm1d)
    with torch.no_grad():
        features[1].weight.copy_(torch.rand(8) + 1)
    for net, x in ((trained_like(Computed()), torch.randn(2, 4, 3, 3)), (features, torch.randn(2, 8, 8))):
        with torch.no_grad():
            torch.testing.assert_close(Source(net, (x,), 1).folded()(x), net(x), rtol=1e-5, atol=1e-5)
