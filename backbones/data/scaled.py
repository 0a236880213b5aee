"""Cropping while decoding: a JPEG is decoded no larger than its crop needs."""

from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as V

from backbones.data.decode import read_crop
from backbones.data.parts import Part, StoredPart


class CropWhileDecoding:
    """The number of an image -> what the transform makes of it, with the same draws and nearly the same pixels.

    ValueError where the transform does not begin with a crop of a random area, or the images are not stored encoded.
    """

    def __init__(self, part: Part, transform: Callable[[Tensor], Tensor]) -> None:
        steps = list(transform.transforms) if isinstance(transform, v2.Compose) else []
        if not steps or not isinstance(steps[0], v2.RandomResizedCrop):
            raise ValueError("--decode scaled is for crops of random area; give --crop area, or leave out --decode")
        if not isinstance(part, StoredPart):
            raise ValueError("--decode scaled is for images that are decoded; these are in memory: leave out --decode")
        self._part, self._crop = part, steps[0]
        self._rest = v2.Compose(steps[1:]) if len(steps) > 1 else v2.Identity()
        self._size = [int(side) for side in self._crop.size]

    def __call__(self, index: int) -> Tensor:
        part, how = self._part, self._crop.interpolation
        size = (self._size[0], self._size[1])
        image, place = read_crop(part.source(index), part.channels, size, self._box, part.where(index))
        return self._rest(V.resized_crop(image, *place, size=self._size, interpolation=how, antialias=True))

    def _box(self, height: int, width: int) -> tuple[int, int, int, int]:
        drawn = self._crop.make_params([torch.empty(self._part.channels, height, width, device="meta")])
        return drawn["top"], drawn["left"], drawn["height"], drawn["width"]
