"""The same tensors under another library's names.

A peer is another library: which of its networks compute the same function as which of ours, and how its files call each
of our layers. The names are data, in the order of our layers, so every table reads both ways.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from backbones.backbone import Backbone

LINES = 20
"""of misfits that an error shows"""


class Network(NamedTuple):
    """A peer's network and ours that computes the same function."""

    name: str
    """as the peer calls it"""
    ours: str
    settings: Mapping[str, Any] = {}
    """ours, over the variant's own"""
    kwargs: Mapping[str, Any] = {}
    """theirs, for their constructor"""


class Leaf(NamedTuple):
    """A peer's layer whose weight has another shape than ours: a 1x1 convolution for a matrix, or the reverse."""

    name: str
    shape: tuple[int, ...]
    """of their weight, after its output channels"""


class Slot(NamedTuple):
    """Where one of our tensors is in a peer's file, and how to turn it there and back."""

    name: str
    there: Callable[[Tensor], Tensor]
    here: Callable[[Tensor], Tensor]


Layers = Callable[[Backbone], Iterable[str | Leaf]]
"""A peer's names of our layers with tensors of their own, in the order in which our modules stand"""


@dataclass(frozen=True)
class Peer:
    """A library whose files we read and write."""

    name: str
    networks: Sequence[Network]
    """those without `kwargs` first"""
    layers: Mapping[str, Layers]
    """by family"""
    create: Callable[[Network], nn.Module]
    """the peer's own network with random weights; ImportError where the peer is not installed"""
    respell: Callable[[str], str] = str
    """from the spelling of the peer's older files to that of today"""

    def slots(self, model: Backbone) -> dict[str, Slot]:
        """Our tensor -> its place in the peer's file. LookupError if the peer has no such family."""
        ours = list(leaves(model))
        theirs = [Leaf(name, ()) if isinstance(name, str) else name for name in self.layers[family(model)](model)]
        return {
            f"{name}.{key}": _slot(f"{leaf.name}.{key}", tensor.shape, leaf.shape if key == "weight" else ())
            for (name, module), leaf in zip(ours, theirs, strict=True)
            for key, tensor in own_tensors(module).items()
        }


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
    return {key: tensor for key, tensor in module.state_dict().items() if "." not in key}


def family(model: Backbone) -> str:
    """The module of `backbones.models` that the network's paper has."""
    return model.variant.build.__module__.rpartition(".")[2]


def _slot(name: str, shape: torch.Size, tail: tuple[int, ...]) -> Slot:
    if not tail:
        return Slot(name, _same, _same)
    return Slot(name, lambda t: t.reshape(t.shape[0], *tail), lambda t: t.reshape(shape))


def _same(tensor: Tensor) -> Tensor:
    return tensor
