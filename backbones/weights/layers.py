"""Our networks as the peers' tables walk through them: modules with tensors, blocks, rows, positions."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from backbones.backbone import Backbone


def leaves(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules with tensors of their own, by name, as they stand."""
    for name, module in model.named_modules():
        if own_tensors(module):
            yield name, module


def holds(module: nn.Module) -> bool:
    """Whether it or a part of it has tensors."""
    return bool(module.state_dict())


def convs(module: nn.Module) -> list[nn.Conv2d]:
    """Its convolutions, as they stand."""
    return [m for m in module.modules() if isinstance(m, nn.Conv2d)]


def blocks(model: Backbone) -> Iterator[tuple[int, int, Any]]:
    """(stage, index in it, block) of what has tensors in the stages; poolings between do not count."""
    for stage, part in enumerate(model.stages):
        yield from ((stage, index, block) for index, block in enumerate(filter(holds, part.children())))


def rows(model: Backbone) -> Iterator[tuple[int, int, Any]]:
    """(row, index in it, block) of the blocks with a branch, in rows of equal output channels as tables have them."""
    row, index, before = -1, 0, None
    for block in (b for _, _, b in blocks(model) if hasattr(b, "branch")):
        channels = convs(block.branch)[-1].out_channels
        row, index = (row, index + 1) if channels == before else (row + 1, 0)
        before = channels
        yield row, index, block


def positions(stages: nn.Module) -> Iterator[int]:
    """Where the modules with tensors stand in one row of all modules of the stages."""
    row = [module for stage in stages.children() for module in stage.children()]
    yield from (i for i, module in enumerate(row) if holds(module))


def normed(*names: str, conv: str = "conv", norm: str = "bn") -> Iterator[str]:
    """A convolution and its norm for each name."""
    for name in names:
        yield from (f"{name}.{conv}", f"{name}.{norm}")


def own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and saved buffers that are the module's own, not its children's."""
    own: dict[str, Tensor] = {}
    module._save_to_state_dict(own, "", False)  # a state_dict() would walk through the children
    return own


def family(model: Backbone) -> str:
    """The module of `backbones.models` that the network's paper has."""
    return model.variant.build.__module__.rpartition(".")[2]
