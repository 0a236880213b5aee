"""What torchvision's transforms lack. All draws are torch's, so that its seed fixes them."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as V


class Lighting(nn.Module):
    """Shift all colours along their principal components: + sum_k alpha_k lambda_k p_k, alpha ~ N(0, std).

    On float images from 0 to 1 (AlexNet, Sec. 4.1); lambda (C,) and p (C, C), in columns, come from `colours_of`.
    """

    def __init__(self, std: float, eigenvalues: Tensor, eigenvectors: Tensor) -> None:
        super().__init__()
        self.std, self.eigenvalues, self.eigenvectors = std, eigenvalues, eigenvectors

    def forward(self, image: Tensor) -> Tensor:
        alpha = torch.randn(len(self.eigenvalues)) * self.std
        return image + (self.eigenvectors @ (alpha * self.eigenvalues))[:, None, None]


class SideResize(nn.Module):
    """Shorter side, or with `squashed` both sides, to a length drawn from `smallest` to `largest`."""

    def __init__(self, smallest: int, largest: int, squashed: bool, mode: v2.InterpolationMode) -> None:
        super().__init__()
        self.smallest, self.largest, self.squashed, self.mode = smallest, largest, squashed, mode

    def forward(self, image: Tensor) -> Tensor:
        side = int(torch.randint(self.smallest, self.largest + 1, ()))
        return V.resize(image, [side, side] if self.squashed else [side], self.mode, antialias=True)


class CentralSquare(nn.Module):
    """The largest square in the middle. (C, H, W) -> (C, S, S), S = min(H, W)."""

    def forward(self, image: Tensor) -> Tensor:
        return V.center_crop(image, [min(image.shape[-2:])])


class FixedCrop(nn.Module):
    """One of five crops: at a corner or in the centre. (C, H, W) -> (C, *size)."""

    def __init__(self, size: Sequence[int]) -> None:
        super().__init__()
        self.size = list(size)

    def forward(self, image: Tensor) -> Tensor:
        return V.five_crop(image, self.size)[int(torch.randint(5, ()))]


class AnyAreaCrop(nn.Module):
    """A crop of random area and aspect, resized in one of four ways, drawn for every image (GoogLeNet, Sec. 6)."""

    MODES = (*map(v2.InterpolationMode, ("nearest-exact", "bilinear", "bicubic")), "area")

    def __init__(self, size: Sequence[int], scale: tuple[float, float], ratio: tuple[float, float]) -> None:
        super().__init__()
        self.size, self.box = list(size), v2.RandomResizedCrop(size, scale, ratio)

    def forward(self, image: Tensor) -> Tensor:
        box = self.box.make_params([image])
        mode = self.MODES[int(torch.randint(len(self.MODES), ()))]
        if mode != "area":
            return V.resized_crop(image, **box, size=self.size, interpolation=mode, antialias=True)
        return F.interpolate(V.crop(image, **box)[None].float(), self.size, mode="area")[0].round().to(image.dtype)


class Cutout(nn.Module):
    """Erase a square around a drawn pixel, to 0; what hangs over the edge is lost (DeVries and Taylor 2017)."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        side = round(self.share * max(height, width))
        top, left = int(torch.randint(height, ())) - side // 2, int(torch.randint(width, ())) - side // 2
        image = image.clone()
        image[..., max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = 0
        return image
