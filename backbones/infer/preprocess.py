"""Our evaluation's preprocessing as operators that every exported format has: matrix products."""

import torch
from torch import Tensor, nn

from backbones.records import Preprocessing


class Fit(nn.Module):
    """uint8 (N, H, W, C) of any H and W -> float32 (N, C, *size): resize, centre crop, scale to [0, 1], normalise.

    Each axis is resized and cropped by one matrix of interpolation weights, made of the image's size in the graph.
    Values are rounded to whole pixels after each axis, as torch does with uint8 images.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.size, self.interpolation = preprocessing.size, preprocessing.interpolation
        self.box = tuple(round(side / preprocessing.crop) for side in preprocessing.size)
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(getattr(preprocessing, name)).reshape(-1, 1, 1))

    def forward(self, input: Tensor) -> Tensor:
        sides = [torch.ones(1, dtype=torch.int64) * side for side in input.shape[1:3]]
        resized = [torch.full((1,), side) for side in self.box]
        if self.size[0] == self.size[1]:  # the shorter side fits the box, the aspect is kept
            short = torch.minimum(*sides)
            resized = [torch.div(self.box[0] * side, short, rounding_mode="floor") for side in sides]
        down, across = (self._weights(*args) for args in zip(sides, resized, self.size, input.shape[1:3], strict=True))
        x = input.permute(0, 3, 1, 2).float()
        x = _pixels(_pixels(x @ across.T).permute(0, 1, 3, 2) @ down.T).permute(0, 1, 3, 2)
        return (x / 255 - self.mean) / self.std

    def _weights(self, side: Tensor, resized: Tensor, kept: int, pixels: int) -> Tensor:
        """(kept, pixels): what each pixel of the image counts in each of the middle pixels of the resized one.

        Places are whole numbers over (2 * side) or (2 * resized), so that nothing is rounded before the division.
        """
        first = torch.round((resized - kept) / 2).long()
        rows, columns = 2 * (torch.arange(kept)[:, None] + first) + 1, torch.arange(pixels)[None]
        if self.interpolation == "nearest":
            return (columns == torch.floor(rows / 2 * (side / resized)).long()).float()
        far = ((2 * columns + 1) * resized - rows * side) / (2 * torch.maximum(side, resized))
        weights = _cubic(far.abs()) if self.interpolation == "bicubic" else (1 - far.abs()).clamp(min=0)
        return weights / weights.sum(1, keepdim=True)


class Answer(nn.Module):
    """Logits of `network` -> its probabilities, and the place of the largest."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, input: Tensor) -> tuple[Tensor, Tensor]:
        probabilities = self.network(input).softmax(1)
        return probabilities, probabilities.argmax(1)


class Plain(nn.Module):
    """`network`, whose argument is called `input`: formats take its name from there."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, input: Tensor) -> Tensor:
        return self.network(input)


def _pixels(x: Tensor) -> Tensor:
    return torch.floor(x + 0.5).clamp(0, 255)


def _cubic(x: Tensor) -> Tensor:
    """Keys' cubic convolution with a = -0.5, as antialiased resizing has it."""
    near, outer = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, outer, torch.zeros_like(x)))
