"""Our counter against the textbook formula, layer by layer."""

import pytest
import torch
from networks import KINDS
from torch import nn

from backbones import create_model
from backbones.catalog import load
from backbones.cost import measure_cost

UNUSUAL = {"lenet5", "lenet5.modern"}
"""Their sums over sparse connections and distances have formulas of their own in test_families."""


def by_hand(model: nn.Module, size: int) -> int:
    """Multiply-adds by the textbook formula, layer by layer: k * k * c_in / groups * c_out * H * W."""
    total = 0

    def count(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv2d):
            kernel = layer.kernel_size[0] * layer.kernel_size[1] * layer.in_channels // layer.groups
            total += kernel * layer.out_channels * output.shape[-2] * output.shape[-1]
        elif isinstance(layer, nn.Linear):
            total += layer.in_features * layer.out_features

    for layer in model.modules():
        layer.register_forward_hook(count)
    model.eval()(torch.empty(1, 3, size, size, device="meta"))
    return total


@pytest.mark.parametrize("name", [n for n in KINDS if n not in UNUSUAL])
def test_the_counter_agrees_with_the_textbook(name: str) -> None:
    entry = load()[name]
    with torch.device("meta"):
        assert by_hand(create_model(name), entry["input_size"][1]) == entry["measured"]["madds"]


def test_cost_of_a_known_network() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 16, 10))
    module.train()
    cost = measure_cost(module, (3, 8, 8))
    assert (cost.params, cost.buffers, cost.madds) == (216 + 16 + 1290, 8 + 8 + 1, 27 * 8 * 16 + 1280)
    assert module.training
    assert module[1].num_batches_tracked == 0


def test_option_b_on_cifar_is_pytorchcvs_resnet() -> None:
    from pytorchcv.model_provider import get_model

    theirs = get_model("resnet20_cifar10")
    ours = create_model("resnet20_cifar", shortcut="B")
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters()) == 272_474
    shortcuts = {"A": 269_722, "B": 272_474}
    counts = {
        kind: sum(p.numel() for p in create_model("resnet20_cifar", shortcut=kind).parameters()) for kind in "ABC"
    }
    assert {k: counts[k] for k in shortcuts} == shortcuts
    # C also projects where nothing changes: three blocks of stage 1, two of each later one
    more = 3 * (16 * 16 + 32) + 2 * (32 * 32 + 64) + 2 * (64 * 64 + 128)
    assert counts["C"] == counts["B"] + more
