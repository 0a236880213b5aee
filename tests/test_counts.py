"""Exact counts by other roads than our own counter: the papers' tables done by hand, and the peers' modules."""

import csv
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from backbones import create_model
from backbones.catalog import load
from backbones.cost import measure_cost

# name -> (parameters, multiply-adds at the paper's size), counted from the papers' tables by a script of another author
EXACT = {
    "alexnet": (60_965_224, 724_406_816),
    "zfnet": (62_357_608, 1_168_032_896),
    "zfnet_b": (107_627_624, 2_476_704_896),
    "vgg11": (132_863_336, 7_609_090_048),
    "vgg11_lrn": (132_863_336, 7_609_090_048),
    "vgg13": (133_047_848, 11_308_466_176),
    "vgg16_c": (133_638_952, 11_770_888_192),
    "vgg16": (138_357_544, 15_470_264_320),
    "vgg19": (143_667_240, 19_632_062_464),
    "resnet18": (11_515_688, 1_794_805_760),
    "plain18": (11_515_688, 1_794_805_760),
    "resnet34": (21_623_848, 3_644_493_824),
    "plain34": (21_623_848, 3_644_493_824),
    "resnet34.tv": (21_797_672, 3_663_761_408),
    "resnet50": (25_557_032, 3_857_973_248),
    "resnet50.tv": (25_557_032, 4_089_184_256),
    "resnet101": (44_549_160, 7_570_194_432),
    "resnet152": (60_192_808, 11_282_415_616),
    "resnet20_cifar": (269_722, 40_551_040),
    "plain20_cifar": (269_722, 40_551_040),
    "resnet32_cifar": (464_154, 68_862_592),
    "plain32_cifar": (464_154, 68_862_592),
    "resnet44_cifar": (658_586, 97_174_144),
    "plain44_cifar": (658_586, 97_174_144),
    "resnet56_cifar": (853_018, 125_485_696),
    "plain56_cifar": (853_018, 125_485_696),
    "resnet110_cifar": (1_727_962, 252_887_680),
    "resnet1202_cifar": (19_421_274, 2_829_238_912),
}
REFERENCE = Path(__file__).parents[2] / "shared" / "reference" / "counted_from_tables.csv"

TV = {
    "alexnet.tv": "alexnet",
    **{f"vgg{depth}": f"vgg{depth}" for depth in (11, 13, 16, 19)},
    **{f"vgg{depth}_bn": f"vgg{depth}_bn" for depth in (11, 13, 16, 19)},
    **{f"resnet{depth}.tv": f"resnet{depth}" for depth in (18, 34, 50, 101, 152)},
}
"""our name -> torchvision's"""


@pytest.mark.parametrize("name", EXACT)
def test_counts_are_exact(name: str) -> None:
    measured = load()[name]["measured"]  # test_house proves that the catalog is current
    assert (measured["params"], measured["madds"]) == EXACT[name]


@pytest.mark.skipif(not REFERENCE.exists(), reason="the reference tables are not beside the project")
def test_the_figures_above_are_the_references() -> None:
    rows = list(csv.DictReader(REFERENCE.read_text().splitlines()))
    counted = {(int(row["params_from_table"]), int(row["macs_from_table"])) for row in rows}
    assert set(EXACT.values()) <= counted


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


@pytest.mark.parametrize("name", [n for n in EXACT if n != "resnet1202_cifar"])
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


@pytest.mark.parametrize("name", TV)
def test_same_function_as_torchvision(name: str) -> None:
    """Equal counts, and equal logits with the same weights and statistics."""
    theirs = torchvision.models.get_model(TV[name], weights=None, init_weights=False) if "vgg" in name else None
    theirs = (theirs or torchvision.models.get_model(TV[name], weights=None)).eval()
    ours = create_model(name).eval()
    generator = torch.Generator().manual_seed(0)
    for norm in (m for m in theirs.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.uniform_(-0.1, 0.1, generator=generator)
        norm.running_var.uniform_(0.5, 1.5, generator=generator)
    mine, state = ours.state_dict(), theirs.state_dict()
    assert [v.shape for v in mine.values()] == [v.shape for v in state.values()]
    ours.load_state_dict(dict(zip(mine, state.values(), strict=True)))
    for size in (224, 97):
        images = torch.randn(1, 3, size, size + 5, generator=generator)
        with torch.inference_mode():
            expected = theirs(images)
            torch.testing.assert_close(ours(images), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


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
