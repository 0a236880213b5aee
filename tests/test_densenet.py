"""What is peculiar to DenseNet: growing lists of maps, memory that grows with them and no faster, who compresses."""

import math

import pytest
import torch
from test_promises import gradients
from torch import Tensor, nn
from torch.nn import functional as F

from backbones import create_model
from backbones.backbone import Backbone
from backbones.models.densenet import DenseBlock, DenseLayer


def params(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_a_dense_block_by_hand() -> None:
    """Eq. 2 and Sec. 3: x_l = H_l([x_0, ..., x_l-1]); layer l reads k_0 + k (l - 1) maps."""
    block = create_model("densenet_bc_100_12_cifar", seed=0).eval().stages[1][1].double()
    x = torch.randn(2, 108, 5, 6, dtype=torch.float64)
    maps = [x]
    for index, layer in enumerate(block):
        joined = torch.cat(maps, 1)
        assert joined.shape[1] == 108 + 12 * index
        bottleneck, conv = layer.first, layer.rest[1]
        narrow = F.conv2d(normed(joined, bottleneck.norm), bottleneck.conv.weight)
        assert narrow.shape[1] == 4 * 12
        maps.append(F.conv2d(normed(narrow, conv.norm), conv.conv.weight, padding=1))
    torch.testing.assert_close(block(x), torch.cat(maps, 1))


def normed(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    return (x / math.sqrt(1 + norm.eps)).relu()  # as initialised


def test_counts_by_the_papers_formulas() -> None:
    """Every layer's 3x3 weights and norms, both transitions and the classifier, for DenseNet and DenseNet-C."""
    for name, theta in (("densenet_40_12_cifar", 1.0), ("densenet_c_40_12_cifar", 0.5)):
        maps, expected = 16, 27 * 16
        for block in range(3):
            if block:
                kept = math.floor(theta * maps)
                expected, maps = expected + 2 * maps + maps * kept, kept
            for _ in range((40 - 4) // 3):
                expected, maps = expected + 2 * maps + 9 * maps * 12, maps + 12
        expected += 2 * maps + (maps + 1) * 10
        assert params(create_model(name)) == expected


def test_only_bc_starts_with_twice_the_growth_rate() -> None:
    stems = {
        name: create_model(f"densenet_{name}_cifar").stem.out_channels for name in ("40_12", "c_40_12", "bc_100_12")
    }
    assert stems == {"40_12": 16, "c_40_12": 16, "bc_100_12": 24}


def block_bytes(model: Backbone, images: Tensor) -> int:
    """Of the maps that the dense blocks' own lists hold, which live in any case."""
    sizes: list[int] = []
    blocks = [m for m in model.modules() if isinstance(m, DenseBlock)]
    hooks = [b.register_forward_hook(lambda *a: sizes.append(a[-1].numel() * a[-1].element_size())) for b in blocks]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return sum(sizes)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", ["densenet_40_12_cifar", "densenet_bc_100_12_cifar"])
def test_memory_efficient_training(name: str, checkpointing: bool) -> None:
    """The same gradients and statistics, also under gradient checkpointing, and less memory for what layers read."""
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    usual = create_model(name, seed=0)
    efficient = create_model(name, seed=0, memory_efficient=True)
    efficient.set_grad_checkpointing(checkpointing)
    expected, statistics, bytes_kept = gradients(usual, images)
    got, new_statistics, fewer_bytes = gradients(efficient, images)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(new_statistics, statistics)
    assert fewer_bytes + block_bytes(usual, images) < 0.5 * bytes_kept


def test_memory_efficient_layers_keep_their_dropout() -> None:
    """The masks lie outside of what is recomputed: one seed, one gradient."""
    x, grads = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)), []
    for memory_efficient in (False, True):
        model = create_model("densenet_bc_100_12_cifar", seed=0, drop_rate=0.2, memory_efficient=memory_efficient)
        torch.manual_seed(1)
        model.train()(x).square().sum().backward()
        grads.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(grads[1], grads[0])


def test_dropout_follows_every_convolution_but_the_first() -> None:
    model = create_model("densenet_bc_100_12_cifar", drop_rate=0.2)
    convs = sum(isinstance(m, nn.Conv2d) for m in model.modules())
    rates = [m.p for m in model.modules() if isinstance(m, nn.Dropout) and m is not model.head.dropout]
    assert rates == [0.2] * (convs - 1)


def test_starts_as_the_authors_release() -> None:
    """Convolutions N(0, 2 / (k^2 out_channels)); the classifier uniform in +-1 / sqrt(fan_in), biases 0."""
    model = create_model("densenet121", seed=0)
    layer = next(m for m in model.stages[3].modules() if isinstance(m, DenseLayer))
    for conv in (model.stem[0], layer.first.conv, layer.rest[1].conv, model.stages[3][0][0].conv):
        fan_out = conv.weight[:, 0].numel()
        assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.02)
    classifier = model.get_classifier()
    bound = 1 / math.sqrt(1024)
    assert 0.99 * bound < classifier.weight.abs().max() <= bound
    assert not classifier.bias.any()


@pytest.mark.parametrize(
    ("name", "setting", "said"),
    [
        ("densenet121", {"depth": 120}, "depth=120; give one of 121, 161, 169, 201, 264"),
        ("densenet121", {"growth_rate": 0}, "growth_rate=0"),
        ("densenet_40_12_cifar", {"depth": 41}, "depth=41; give 3n . 4, such as 40"),
        ("densenet_bc_100_12_cifar", {"depth": 40 + 3}, "give 6n . 4, such as 76"),
        ("densenet_bc_100_12_cifar", {"compression": 1.5}, "compression=1.5"),
    ],
)
def test_settings_that_are_not_allowed(name: str, setting: dict[str, object], said: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=said):
        create_model(name, **setting)
