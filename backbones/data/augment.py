"""The steps that transforms are made of, on one image. All draws are torch's; uint8 steps come before `ToFloat`."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

Step = Callable[[Tensor], Tensor]
"""(C, H, W) -> (C, H', W')"""


@dataclass(frozen=True)
class Chain:
    """One step after the other."""

    steps: tuple[Step, ...]

    def __call__(self, image: Tensor) -> Tensor:
        for step in self.steps:
            image = step(image)
        return image


@dataclass(frozen=True)
class Resize:
    """uint8 (C, H, W) -> (C, *size), the aspect not kept."""

    size: tuple[int, int]
    interpolation: str

    def __call__(self, image: Tensor) -> Tensor:
        return _resize(image, self.size, self.interpolation)


@dataclass(frozen=True)
class Cover:
    """Resize to the smallest image of the same aspect that covers (H, W) / crop, and cut its centre: (C, *size)."""

    size: tuple[int, int]
    crop: float
    interpolation: str

    def __call__(self, image: Tensor) -> Tensor:
        box = round(self.size[0] / self.crop), round(self.size[1] / self.crop)
        image = _resize(image, _covering(image, box), self.interpolation)
        top, left = (round((have - want) / 2) for have, want in zip(image.shape[-2:], self.size, strict=True))
        return image[:, top : top + self.size[0], left : left + self.size[1]]


@dataclass(frozen=True)
class ScaleThenCrop:
    """Resize to cover f * (H, W) with f drawn evenly from `scale`, and cut a random place: (C, *size)."""

    size: tuple[int, int]
    scale: tuple[float, float]
    interpolation: str

    def __call__(self, image: Tensor) -> Tensor:
        factor = self.scale[0] + (self.scale[1] - self.scale[0]) * torch.rand(()).item()
        box = round(self.size[0] * factor), round(self.size[1] * factor)
        return _random_crop(_resize(image, _covering(image, box), self.interpolation), self.size)


@dataclass(frozen=True)
class PadThenCrop:
    """Add black on each side, and cut a random place of the size before: (C, H, W) -> (C, H, W)."""

    pixels: int

    def __call__(self, image: Tensor) -> Tensor:
        return _random_crop(F.pad(image, [self.pixels] * 4), (image.shape[1], image.shape[2]))


@dataclass(frozen=True)
class Mirror:
    """Left and right exchanged, with a probability."""

    probability: float

    def __call__(self, image: Tensor) -> Tensor:
        return image.flip(-1) if torch.rand(()).item() < self.probability else image


@dataclass(frozen=True)
class ToFloat:
    """uint8 from 0 to 255 -> float32 from 0 to 1."""

    def __call__(self, image: Tensor) -> Tensor:
        return image.float().div_(255)


@dataclass(frozen=True)
class Affine:
    """Random rotation, shear, change of size and shift about the centre, bilinear, black outside; on float images.

    The same map as torchvision's `functional.affine`, in one product and one sampling, without its overhead.
    """

    size: tuple[int, int]
    rotate: float
    """largest rotation, degrees"""
    translate: float
    """largest shift, as a share of the side"""
    zoom: float
    """largest relative change of size"""
    shear: float
    """largest shear along x, degrees"""
    places: Tensor = field(init=False, repr=False, compare=False)
    """(H * W, 3): x and y of every pixel from the centre, and 1"""

    def __post_init__(self) -> None:
        height, width = self.size
        y, x = torch.meshgrid(
            torch.arange(height) - (height - 1) / 2, torch.arange(width) - (width - 1) / 2, indexing="ij"
        )
        object.__setattr__(self, "places", torch.stack([x, y, torch.ones_like(x)], dim=-1).view(-1, 3))

    def __call__(self, image: Tensor) -> Tensor:
        angle, right, down, zoom, shear = (2 * torch.rand(5) - 1).tolist()
        height, width = self.size
        shift = (right * self.translate * width, down * self.translate * height)
        return self.moved(image, angle * self.rotate, shift, 1 + zoom * self.zoom, shear * self.shear)

    def moved(self, image: Tensor, angle: float, shift: tuple[float, float], scale: float, shear: float) -> Tensor:
        """The image turned clockwise and sheared (degrees), scaled, and shifted right and down (pixels)."""
        height, width = self.size
        cos, sin, tan = math.cos(math.radians(angle)), math.sin(math.radians(angle)), math.tan(math.radians(shear))
        # each pixel of the result asks where it comes from: the inverse of shift * rotation * shear * scale
        to_x = ((cos - sin * tan) / scale, (sin + cos * tan) / scale)
        to_y = (-sin / scale, cos / scale)
        rows = [
            [*(2 / width * a for a in to_x), -2 / width * (to_x[0] * shift[0] + to_x[1] * shift[1])],
            [*(2 / height * a for a in to_y), -2 / height * (to_y[0] * shift[0] + to_y[1] * shift[1])],
        ]
        grid = (self.places @ torch.tensor(rows).T).view(1, height, width, 2)
        return F.grid_sample(image[None], grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0]


@dataclass(frozen=True)
class Lighting:
    """Shift all colours along their principal components: + sum_k alpha_k lambda_k p_k, alpha ~ N(0, std).

    On float images from 0 to 1 (AlexNet, Sec. 4.1); lambda (C,) and p (C, C), in columns, come from `colours_of`.
    """

    std: float
    eigenvalues: Tensor
    eigenvectors: Tensor

    def __call__(self, image: Tensor) -> Tensor:
        alpha = torch.randn(len(self.eigenvalues)) * self.std
        return image + (self.eigenvectors @ (alpha * self.eigenvalues))[:, None, None]


class Normalise:
    """(image - mean) / std, per channel; on float images."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.mean, self.std = torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]

    def __call__(self, image: Tensor) -> Tensor:
        if image.shape[0] != len(self.mean):
            raise ValueError(
                f"the image has {image.shape[0]} channels, the preprocessing {len(self.mean)}; "
                "open the data, or read the image, with as many channels as the preprocessing has"
            )
        return (image - self.mean).div_(self.std)


def _resize(image: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    if tuple(image.shape[-2:]) == size:
        return image
    if interpolation == "nearest":
        return F.interpolate(image[None], size, mode="nearest-exact")[0]
    return F.interpolate(image[None], size, mode=interpolation, align_corners=False, antialias=True)[0]


def _covering(image: Tensor, box: tuple[int, int]) -> tuple[int, int]:
    """(H, W) with the aspect of the image that covers the box and touches it in one side, as torchvision rounds it."""
    height, width = image.shape[-2:]
    if box[0] * width >= box[1] * height:  # the height decides
        return box[0], max(box[1], int(box[0] * width / height))
    return max(box[0], int(box[1] * height / width)), box[1]


def _random_crop(image: Tensor, size: tuple[int, int]) -> Tensor:
    top = int(torch.randint(image.shape[-2] - size[0] + 1, ()))
    left = int(torch.randint(image.shape[-1] - size[1] + 1, ()))
    return image[..., top : top + size[0], left : left + size[1]]
