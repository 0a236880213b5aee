"""How far an artefact's outputs are from the network's here, for the same images."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from backbones.data import eval_transform
from backbones.infer.preprocess import Fit
from backbones.records import Preprocessing

BATCHES = (1, 3)
"""images at a time that are compared"""
SIDES = ((1.0, 1.0), (1.5, 1.13), (0.8, 1.31), (2.9, 2.17))
"""height and width over the input's, of the pictures that are compared where the artefact prepares them itself"""


@dataclass(frozen=True)
class Parity:
    """How far the artefact's first output is from the network's here, for the same images."""

    against: str
    """what computed the other side"""
    images: tuple[int, ...]
    largest: float
    relative: float
    """the largest over the range of the network's output"""
    top1: float
    """share of the images with the same class on top"""


def compared(
    function: nn.Module, example: Tensor, compute: Callable[[Tensor], list[Tensor]], preprocessing: Preprocessing | None
) -> Iterator[Parity]:
    """With torch here; and where the artefact prepares its images, with all that `predict` does to them."""
    draw = torch.Generator().manual_seed(0)
    if preprocessing is None:
        for batch in BATCHES:
            images = torch.randn(batch, *example.shape[1:], generator=draw)
            yield apart("the network in torch", images.shape, compute(images)[0], first(function(images)))
        return
    inside = Fit(preprocessing)
    for batch in BATCHES:
        for across, down in SIDES:
            height, width = round(across * preprocessing.size[0]), round(down * preprocessing.size[1])
            images = pictures(batch, height, width, preprocessing.channels, draw)
            got = compute(images)[0]
            yield apart(
                "the same preprocessing and network in torch", images.shape, got, first(function(inside(images)))
            )
            ready = prepared(images, preprocessing)
            yield apart("predict's preprocessing and network", images.shape, got, first(function(ready)))


def pictures(batch: int, height: int, width: int, channels: int, draw: torch.Generator) -> Tensor:
    """uint8 (N, H, W, C): waves under a little noise, which resize as photographs do."""
    down, across = torch.linspace(0, 1, height)[:, None, None], torch.linspace(0, 1, width)[:, None]
    places = torch.rand(4, batch, 1, 1, channels, generator=draw) * 12
    waves = torch.sin(places[0] * down + places[1]) * torch.cos(places[2] * across + places[3])
    noise = torch.randn(batch, height, width, channels, generator=draw)
    return (128 + 100 * waves + 16 * noise).clamp(0, 255).to(torch.uint8)


def apart(against: str, images: Sequence[int], got: Tensor, expected: Tensor) -> Parity:
    """One comparison; RuntimeError where not even the shapes agree, or one side is no number."""
    if got.shape != expected.shape:
        raise RuntimeError(f"the artefact returns {tuple(got.shape)} where the network returns {tuple(expected.shape)}")
    if not (got.isfinite().all() and expected.isfinite().all()):
        raise RuntimeError("the artefact or the network returns NaN or infinity: nothing can be compared")
    largest = float((got - expected).abs().max())
    span = float(expected.max() - expected.min())
    same = float((got.argmax(1) == expected.argmax(1)).float().mean())
    return Parity(against, tuple(images), largest, largest / span if span else largest, same)


def first(outputs: Tensor | tuple[Tensor, ...]) -> Tensor:
    """The first of one or more outputs."""
    return outputs if isinstance(outputs, Tensor) else outputs[0]


def prepared(images: Tensor, preprocessing: Preprocessing | None) -> Tensor:
    """The artefact's input -> the network's, as `predict` prepares it."""
    if preprocessing is None:
        return images
    return torch.stack([eval_transform(preprocessing)(image) for image in images.permute(0, 3, 1, 2)])
