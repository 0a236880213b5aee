"""What is peculiar to FractalNet: who joins whom, drop-path, and columns as networks of their own."""

import math
from itertools import count

import pytest
import torch
from torch import Tensor, nn

from backbones import create_model
from backbones.backbone import Backbone
from backbones.models.fractalnet import FractalBlock, Join

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def mean(*maps: Tensor) -> Tensor:
    return torch.stack(maps).mean(0)


def small(**settings: object) -> Backbone:
    return create_model("fractalnet20_cifar", width=8, seed=0, **settings)


def test_a_block_of_three_columns_by_hand() -> None:
    """Fig. 1: two columns join after two layers, all three after four, each pooled before."""
    block = small().eval().double().stages[0][0]
    pool, z = nn.MaxPool2d(2), IMAGES.double()
    fractal = block.fractal
    front, back = fractal.first.fractal, fractal.second
    joined = mean(front.conv(z), front.second.conv(front.first.fractal.conv(z)))
    ends = (fractal.conv(z), back.conv(joined), back.second.conv(back.first.fractal.conv(joined)))
    torch.testing.assert_close(block(z), mean(*map(pool, ends)))


def test_column_c_has_2_to_the_c_minus_1_layers_per_block() -> None:
    for column in (1, 2, 3):
        convs = sum(isinstance(m, nn.Conv2d) for m in small(column=column).modules())
        assert convs == 5 * 2 ** (column - 1)
    assert sum(isinstance(m, nn.Conv2d) for m in small().modules()) == 5 * (1 + 2 + 4)


@pytest.mark.parametrize(
    ("columns", "depth", "millions"),
    [(1, 5, 0.3), (2, 10, 0.8), (3, 20, 2.1), (4, 40, 4.8), (5, 80, 10.2), (6, 160, 21.1)],
)
def test_the_deepening_networks_of_table_3(columns: int, depth: int, millions: float) -> None:
    """Block channels 16, 32, 64, 128, 128, CIFAR-100: their counts are as printed."""
    with torch.device("meta"):
        model = create_model("fractalnet20_cifar", columns=columns, width=16, num_classes=100)
        deepest = create_model("fractalnet20_cifar", columns=columns, width=16, column=columns)
    assert sum(isinstance(m, nn.Conv2d) for m in deepest.modules()) == depth
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.051)


# -- drop-path


def kept(model: Backbone, steps: int) -> list[list[tuple[int, ...]]]:
    """What every join of at least two columns keeps, per step."""
    joins = [m for m in model.modules() if isinstance(m, Join) and len(m.columns) > 1]
    draws = []
    for step in range(steps):
        model.draws.step = step
        draws.append([join.draw() for join in joins])
    return draws


def is_global(draws: list[tuple[int, ...]]) -> bool:
    return len(set(draws)) == 1 and len(draws[0]) == 1


def test_half_of_the_steps_keep_one_column_everywhere() -> None:
    """The others drop each column of each join with probability 0.15, but never all of them."""
    model = small(columns=4).train()
    draws = kept(model, 2000)
    alone = [d[0][0] for d in draws if is_global(d)]
    assert len(alone) / 2000 == pytest.approx(0.5, abs=0.04)
    for column in (1, 2, 3, 4):
        assert alone.count(column) / len(alone) == pytest.approx(1 / 4, abs=0.06)
    joins = [m for m in model.modules() if isinstance(m, Join) and len(m.columns) > 1]
    local = [pair for d in draws if not is_global(d) for pair in zip(joins, d, strict=True)]
    dropped = sum(len(join.columns) - len(columns) for join, columns in local) / sum(len(j.columns) for j, _ in local)
    rescued = sum(0.15**n for n in (2, 2, 3, 4)) / sum((2, 2, 3, 4))
    assert dropped == pytest.approx(0.15 - rescued, abs=0.005)
    assert all(columns and set(columns) <= set(join.columns) for join, columns in local)
    assert kept(model, 50) == draws[:50]  # a function of the step
    assert {columns for step in kept(model.eval(), 50) for columns in step} == {(1, 2, 3, 4), (2, 3, 4), (3, 4)}


def test_only_what_a_step_needs_is_computed() -> None:
    """A global step runs the layers of its column, a local step those that a join waits for."""
    model = small(drop_rate=0.0).train()
    ran: list[nn.Module] = []
    for conv in (m for m in model.modules() if isinstance(m, nn.Conv2d)):
        conv.register_forward_hook(lambda m, *_: ran.append(m))
    for step, draws in enumerate(kept(model, 20)):
        model.draws.step = step
        ran.clear()
        model(IMAGES)
        assert len(ran) == len(set(ran))
        if is_global(draws):
            assert len(ran) == 5 * 2 ** (draws[0][0] - 1)
        elif any(len(columns) < len(full) for columns, full in zip(draws, kept(model.eval(), 1)[0], strict=True)):
            assert 5 <= len(ran) < 5 * 7
        model.train()
    model.eval()
    ran.clear()
    model(IMAGES)
    assert len(ran) == 5 * 7


@pytest.mark.parametrize("name", ["fractalnet20_cifar", "fractalnet40_cifar"])
def test_a_column_alone_is_what_global_drop_path_trains(name: str) -> None:
    """A trained network's columns, taken out by name, against the steps that draw them."""
    settings = {"drop_rate": 0.0, "width": 64 if name == "fractalnet40_cifar" else 16}
    whole = create_model(name, seed=0, **settings).double()
    for norm in (m for m in whole.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.uniform_(-0.1, 0.1)
        norm.running_var.uniform_(0.5, 1.5)
    images = IMAGES.double()
    columns = len(whole.stages[0][0].join.columns)
    for column in range(1, columns + 1):
        alone = create_model(name, column=column, **settings).double().eval()
        fit = alone.load_state_dict(whole.state_dict(), strict=False)
        assert not fit.missing_keys
        whole.train()
        for norm in (m for m in whole.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.eval()
        whole.draws.step = next(s for s in count() if drawn(whole, s) == [(column,)])
        torch.testing.assert_close(whole(images), alone(images))
        assert not torch.allclose(alone(images), whole.eval()(images))


def drawn(model: Backbone, step: int) -> list[tuple[int, ...]]:
    draws = kept(model, step + 1)[step]
    return [draws[0]] if is_global(draws) else draws


def test_dropout_rises_block_by_block() -> None:
    model = create_model("fractalnet20_cifar")
    rates = [{round(m.p, 6) for m in stage.modules() if isinstance(m, nn.Dropout)} for stage in model.stages]
    assert rates == [{0.0}, {0.1}, {0.2}, {0.3}, {0.4}]


# -- the 40 layers, the 34 layers


def test_thin_columns_are_widened_before_they_join() -> None:
    model = create_model("fractalnet40_cifar", width=64)
    joins = [m for m in model.stages[1][0].modules() if isinstance(m, Join) and m.columns == (1, 2, 3, 4)]
    widths = {c: getattr(w, "in_channels", 128) for c, w in joins[0].widen.items()}
    assert widths == {"1": 128, "2": 64, "3": 32, "4": 16}
    conv = model.stages[1][0].fractal.second.conv[0]
    assert (conv.large.weight.shape, conv.small.weight.shape) == ((24, 64, 3, 3), (40, 64, 1, 1))


def test_34_layers() -> None:
    """One convolution before and one classifier behind four blocks of eight layers."""
    with torch.device("meta"):
        whole, deepest = create_model("fractalnet34"), create_model("fractalnet34", column=4)
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in deepest.modules()) == 34
    assert sum(isinstance(m, FractalBlock) and m.fractal.column == 1 for m in whole.modules()) == 4


def test_starts_with_caffes_xavier() -> None:
    """Uniform with variance 1 / fan_in."""
    model = create_model("fractalnet20_cifar", seed=0)
    for layer in (
        model.stages[2][0].fractal.conv[0],
        model.stages[4][0].fractal.second.conv[0],
        model.get_classifier(),
    ):
        fan_in = layer.weight[0].numel()
        assert layer.weight.std().item() == pytest.approx(1 / math.sqrt(fan_in), rel=0.02)
        assert layer.weight.abs().max().item() == pytest.approx(math.sqrt(3 / fan_in), rel=0.02)
    assert not model.get_classifier().bias.any()


@pytest.mark.parametrize(
    ("name", "setting", "said"),
    [
        ("fractalnet20_cifar", {"column": 4}, "columns=3, column=4"),
        ("fractalnet20_cifar", {"column": 0}, "column=0"),
        ("fractalnet34", {"columns": 0}, "columns=0"),
        ("fractalnet40_cifar", {"width": 100}, "width=100; 4 thin columns need a multiple of 64"),
    ],
)
def test_settings_that_are_not_allowed(name: str, setting: dict[str, object], said: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=said):
        create_model(name, **setting)
