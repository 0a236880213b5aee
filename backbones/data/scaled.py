"""Cropping while decoding: a JPEG is decoded no larger than its crop needs."""

from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as V

from backbones.data.decode import read_crop
from backbones.data.parts import Part, StoredPart


def crop_while_decoding(part: Part, transform: Callable[[Tensor], Tensor]) -> Callable[[int], Tensor]:
    """The number of an image -> what the transform makes of it, with the same draws and nearly the same pixels.

    ValueError where the transform does not begin with a crop of a random area, or the images are not stored encoded.
    """
    steps = list(transform.transforms) if isinstance(transform, v2.Compose) else []
    if not steps or not isinstance(steps[0], v2.RandomResizedCrop):
        raise ValueError("--decode scaled is for crops of random area; give --crop area, or leave out --decode")
    if not isinstance(part, StoredPart):
        raise ValueError("--decode scaled is for images that are decoded; these are in memory: leave out --decode")
    crop, rest, channels = steps[0], v2.Compose(steps[1:]) if len(steps) > 1 else v2.Identity(), part.channels
    size = (int(crop.size[0]), int(crop.size[1]))

    def box(height: int, width: int) -> tuple[int, int, int, int]:
        drawn = crop.make_params([torch.empty(channels, height, width, device="meta")])
        return drawn["top"], drawn["left"], drawn["height"], drawn["width"]

    def made(index: int) -> Tensor:
        image, place = read_crop(part.source(index), channels, size, box, part.where(index))
        return rest(V.resized_crop(image, *place, size=list(size), interpolation=crop.interpolation, antialias=True))

    return made
