"""What is peculiar to NASNet: cells from a table, two inputs, the previous map, scheduled drop-path."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from backbones import create_model
from backbones.backbone import Backbone, WithAux
from backbones.catalog import load
from backbones.dilation import set_output_stride
from backbones.layers import RandomPath
from backbones.models.nasnet import Cell, Droppable, FactorizedReduction, NASNet, SameAvgPool, Style

META = torch.device("meta")


def small(**settings: object) -> NASNet:
    return NASNet(repeats=1, penultimate_filters=96, aux=False, num_classes=0, drop_rate=0.0, **settings)


def cells(model: Backbone) -> list[Cell]:
    return [m for m in model.modules() if isinstance(m, Cell)]


# -- parameters by formula


def conv_norm(inputs: int, outputs: int) -> int:
    return inputs * outputs + 2 * outputs


def sep(k: int, inputs: int, f: int) -> int:
    return k * k * inputs + conv_norm(inputs, f) + k * k * f + conv_norm(f, f)


def normal(previous: int, current: int, f: int) -> int:
    return conv_norm(previous, f) + conv_norm(current, f) + 2 * sep(5, f, f) + 3 * sep(3, f, f)


def reduction(previous: int, current: int, f: int) -> int:
    adjust, p = (conv_norm(previous, f), f) if previous else (0, current)
    return adjust + conv_norm(current, f) + sep(5, f, f) + 2 * sep(7, p, f) + sep(5, p, f) + sep(3, f, f)


def first_of_cifar(stem: int, f: int) -> int:
    """Nothing is adjusted: mean poolings, the identity and the concatenation project the stem's channels."""
    return (
        conv_norm(stem, f)
        + 4 * conv_norm(stem, f)
        + sep(5, f, f)
        + sep(5, stem, f)
        + 2 * sep(3, stem, f)
        + sep(3, f, f)
    )


def body(n: int, previous: int, current: int, f: int, make_first: Callable[[int, int, int], int] = normal) -> int:
    total = 0
    for group in range(3):
        kinds = [reduction] * bool(group) + ([make_first] if not group else []) + [normal] * (n - (not group))
        for kind in kinds:
            total += kind(previous, current, f << group)
            previous, current = current, (4 if kind is reduction else 6) * (f << group)
    return total


def imagenet_params(n: int, f: int, stem: int) -> int:
    early = reduction(0, stem, f // 4) + reduction(stem, f, f // 2)
    return 27 * stem + 2 * stem + early + body(n, f, 2 * f, f) + 24 * f * 1000 + 1000


def cifar_params(n: int, f: int) -> int:
    stem = 3 * f
    first = lambda previous, current, f: first_of_cifar(stem, f)  # noqa: E731
    return 27 * stem + 2 * stem + body(n, stem, stem, f, first) + 24 * f * 10 + 10


def test_parameters_by_formula() -> None:
    assert load()["nasnet_a_4_1056"]["measured"]["params"] == imagenet_params(4, 44, 32) == 5_289_978
    assert load()["nasnet_a_7_1920"]["measured"]["params"] == imagenet_params(7, 80, 96)
    assert load()["nasnet_a_6_4032"]["measured"]["params"] == imagenet_params(6, 168, 96) == 88_753_150
    assert load()["nasnet_a_6_768_cifar"]["measured"]["params"] == cifar_params(6, 32) == 3_346_538
    assert load()["nasnet_a_7_2304_cifar"]["measured"]["params"] == cifar_params(7, 96)


# -- the cells


def test_cells_put_out_the_unused_maps() -> None:
    with META:
        model = create_model("nasnet_a_4_1056").eval()
        x = torch.empty(1, 264, 10, 10), torch.empty(1, 264, 10, 10)
        previous, out = model.stages[2][0](x)
        assert (previous is x[1], out.shape) == (True, (1, 4 * 88, 5, 5))
        assert model.stages[1][3](x)[1].shape == (1, 6 * 44, 10, 10)
    normal_cell, reduction_cell = model.stages[2][2], model.stages[2][0]
    droppable = [sum(isinstance(o, Droppable) for o in c.operations) for c in (normal_cell, reduction_cell)]
    assert (len(cells(model)), droppable) == (3 * 4 + 4, [8, 9])


def test_the_large_network_skips_the_reductions_input() -> None:
    with META:
        large = create_model("nasnet_a_6_4032").eval()
        x = torch.empty(1, 1008, 10, 10), torch.empty(1, 1008, 10, 10)
        previous, _ = large.stages[2][0](x)
        assert previous is x[0]
        early = torch.empty(1, 96, 20, 20)
        assert large.stages[0][0](early)[0] is early


def test_values_between_are_not_lost() -> None:
    """The factorised reduction reads positions 0, 2, ... of rows and columns, and 1, 3, ...; zeros beyond the edge."""
    module = FactorizedReduction(1, 2, Style(0.0, False, 0.0)).eval()
    for conv in (m for m in module.modules() if isinstance(m, nn.Conv2d)):
        nn.init.ones_(conv.weight)
    for side in (4, 5):
        x = torch.arange(1.0, side * side + 1).view(1, 1, side, side)
        padded = nn.functional.pad(x, (0, 1, 0, 1))
        expected = torch.cat([x[..., ::2, ::2], padded[..., 1::2, 1::2][..., : -(-side // 2), : -(-side // 2)]], 1)
        assert torch.equal(module(x), expected)


@pytest.mark.parametrize("side", [6, 7])
def test_means_count_values_inside_only(side: int) -> None:
    """SAME at stride 2: windows begin at -1 for odd sides and at 0 for even ones."""
    x, begin = torch.randn(1, 1, side, side), -(side % 2)
    mean = SameAvgPool(3, 2)(x)
    for i in range(-(-side // 2)):
        for j in range(-(-side // 2)):
            top, left = 2 * i + begin, 2 * j + begin
            window = x[0, 0, max(top, 0) : top + 3, max(left, 0) : left + 3]
            torch.testing.assert_close(mean[0, 0, i, j], window.mean())


@pytest.mark.parametrize("side", [97, 128])
@pytest.mark.parametrize("settings", [{}, {"skip_reduction_layer_input": True}, {"count_include_pad": True}])
def test_finer_maps_contain_the_coarse_ones(side: int, settings: dict[str, bool]) -> None:
    """A trous, through the shift by one pixel and the means too."""
    torch.manual_seed(0)
    model, images = small(**settings).double().eval(), torch.randn(1, 3, side, side, dtype=torch.float64)
    with torch.inference_mode():
        coarse = model.features(images)
        set_output_stride(model, 8)
        for before, after in zip(coarse, model.features(images), strict=True):
            times = -(-after.shape[-1] // before.shape[-1])
            torch.testing.assert_close(after[..., ::times, ::times], before)
    assert times == 4


# -- training


def test_drop_path_grows_with_depth_and_time() -> None:
    model = create_model("nasnet_a_6_768_cifar")
    depth = len(cells(model))
    for number, cell in enumerate(cells(model), start=1):
        (rate,) = {m.rate for m in cell.modules() if isinstance(m, RandomPath)}
        assert rate == pytest.approx(0.4 * number / depth)
    operation = Droppable(nn.Identity(), 0.5).train()
    operation.draws, operation.place, x = model.draws, 0, torch.ones(400, 1, 1, 1)
    for progress, rate in ((0.0, 0.0), (0.5, 0.25), (1.0, 0.5)):
        model.draws.progress = progress
        out = operation(x)
        torch.testing.assert_close(out[out != 0].unique(), torch.tensor([1 / (1 - rate)]))
        assert (out == 0).float().mean().item() == pytest.approx(rate, abs=0.07)


def test_a_batch_may_lose_every_operation() -> None:
    model = create_model("nasnet_a_6_768_cifar", drop_path_mode="batch", drop_path_rate=0.99, num_classes=7).train()
    logits = model(torch.randn(2, 3, 16, 16)).logits
    assert logits.shape == (2, 7)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", ["nasnet_a_4_1056", "nasnet_a_7_1920", "nasnet_a_6_4032", "nasnet_a_6_768_cifar"])
def test_the_auxiliary_head_reads_two_thirds_of_the_cells(name: str) -> None:
    """After the last normal cell of the second group; its second convolution covers the whole pooled map."""
    with META:
        model = create_model(name).train()
        sides: list[tuple[int, ...]] = []
        (tap,) = model.aux.values()
        tap.trunk.register_forward_hook(lambda _, args, out: sides.append((*args[0].shape[-1:], *out.shape[1:])))
        outputs = model(torch.empty(2, *model.variant.input_size))
    assert isinstance(outputs, WithAux)
    assert [*model.aux] == [f"stages_{len(model.stages) - 2}_{model.settings['repeats']}"]
    assert sides == [(tap.least, 768, 1, 1)]
    assert outputs.aux[0].shape == outputs.logits.shape


def test_the_auxiliary_head_reads_no_negative_values() -> None:
    model = create_model("nasnet_a_6_768_cifar", seed=0).eval()
    x = torch.randn(2, 384, 16, 16)
    (tap,) = model.aux.values()
    assert torch.equal(tap(x), tap(x.relu()))


# -- how it starts, and what is not allowed


def deviation(layer: nn.Conv2d | nn.Linear) -> float:
    return layer.weight.std().item()


def test_initialisation() -> None:
    """The release: truncated normal of variance 2 / fan_out, per group of a depthwise convolution."""
    model = create_model("nasnet_a_4_1056", seed=0)
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    for kernel_size in (3, 5, 7):
        depthwise = torch.cat([m.weight.flatten() for m in convs if m.groups > 1 and m.kernel_size[0] == kernel_size])
        assert depthwise.std().item() == pytest.approx(math.sqrt(2 / kernel_size**2), rel=0.02)
        assert depthwise.abs().max().item() <= 2 * math.sqrt(2.6 / kernel_size**2) + 1e-6
    pointwise = [m for m in convs if m.groups == 1 and m.kernel_size == (1, 1) and m.weight.numel() > 20_000]
    assert len(pointwise) > 20
    for conv in pointwise:
        assert deviation(conv) == pytest.approx(math.sqrt(2 / conv.out_channels), rel=0.03)
    (tap,) = model.aux.values()
    assert deviation(tap.trunk[3]) == pytest.approx(math.sqrt(2 / (16 * 768)), rel=0.02)
    assert deviation(model.stem[0]) == pytest.approx(math.sqrt(2 / (9 * 32)), rel=0.1)
    assert deviation(model.head.classifier) == pytest.approx(math.sqrt(2 / 1000), rel=0.02)
    assert not model.head.classifier.bias.any()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all((m.weight == 1).all() and not m.bias.any() and m.eps == 1e-3 for m in norms)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("nasnet_a_4_1056", {"penultimate_filters": 1538}),
        ("nasnet_a_4_1056", {"penultimate_filters": 1056 + 24}),
        ("nasnet_a_4_1056", {"repeats": 0}),
        ("nasnet_a_6_768_cifar", {"penultimate_filters": 24}),
    ],
)
def test_sizes_that_do_not_come_out_even(name: str, settings: dict[str, int]) -> None:
    with META, pytest.raises(ValueError, match=r"give 1 or more normal cells and a multiple of (96|48) filters"):
        create_model(name, **settings)


def test_one_map_serves_for_both_inputs_of_the_first_cell() -> None:
    first = cells(create_model("nasnet_a_6_768_cifar", seed=0).eval())[0]
    x = torch.randn(1, 96, 8, 8)
    assert isinstance(first.adjust, nn.Identity)
    assert torch.equal(first(x)[1], first((x, x))[1])
