"""pytorchcv's FractalNet, which pools after the last join of a block: here its pooling is put before that join."""

from collections.abc import Iterator

from pytorchcv.model_provider import get_model
from torch import nn

from backbones.models.fractalnet import Fractal


def pooled_before_the_join() -> nn.Module:
    """Without anything random, so that training can be compared."""
    model = get_model("fractalnet_cifar10")
    model.glob_drop_ratio = 0.0
    for unit in model.features:
        unit.block.loc_drop_prob = 0.0
        last = unit.block.blocks[-1]
        for name, column in last.named_children():
            setattr(last, name, nn.Sequential(column, unit.pool))
        unit.pool = nn.Identity()
    for dropout in (m for m in model.modules() if isinstance(m, nn.Dropout2d)):
        dropout.p = 0.0
    return model


PEERS = {"fractalnet20_cifar": pooled_before_the_join}


def placed(fractal: Fractal, columns: int, start: int = 0) -> Iterator[tuple[tuple[int, int], nn.Module]]:
    """Every convolution under (position of its end in the deepest column, number of its column from there)."""
    deeper = columns - fractal.column
    length = 2**deeper
    yield (start + length, deeper), fractal.conv
    if deeper:
        yield from placed(fractal.first.fractal, columns, start)
        yield from placed(fractal.second, columns, start + length // 2)


def pairs(ours: nn.Module, theirs: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    for (block,), unit in zip(ours.stages, theirs.features, strict=True):
        mine = dict(placed(block.fractal, 3))
        for position, level in enumerate(unit.block.blocks, 1):
            for column, part in enumerate(level):
                conv, _, norm, _ = mine.pop((position, column))
                other = part[0] if isinstance(part, nn.Sequential) else part
                yield conv, other.conv
                yield norm, other.bn
        assert not mine
    yield ours.get_classifier(), theirs.output
