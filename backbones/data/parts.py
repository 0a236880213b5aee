"""What a dataset consists of: parts, which give images and labels by number and can say where each came from."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike, fspath

from torch import Tensor
from torch.utils.data import Dataset

from backbones.data.decode import read_image, to_channels
from backbones.records import DataInfo


class Part(Dataset[tuple[Tensor, int]]):
    """Images with labels. `part[i]` is (uint8 (C, H, W), class number)."""

    labels: list[int]
    """class number of every image"""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.image(index), self.labels[index]

    def image(self, index: int) -> Tensor:
        """uint8 (C, H, W)"""
        raise NotImplementedError

    def where(self, index: int) -> str:
        """Where the image came from, for errors and reports: a path, or such as 'digits train 17'."""
        raise NotImplementedError

    def take(self, indices: Sequence[int]) -> "Part":
        """The part that has only these images, in this order; `where` still tells where they came from."""
        raise NotImplementedError


class ArrayPart(Part):
    """Images of one size, all in memory.

    Args:
        images: uint8 (N, 1 or 3, H, W)
        labels: class number of every image
        name: of the part, such as 'digits train'
        channels: what the images are converted to, 1 or 3
        numbers: of the images in their source; 0 to N - 1 if not given
    """

    def __init__(
        self, images: Tensor, labels: list[int], name: str, channels: int, numbers: Sequence[int] | None = None
    ) -> None:
        self.images, self.labels, self.name, self.channels = images, labels, name, channels
        self.numbers = range(len(labels)) if numbers is None else numbers

    def image(self, index: int) -> Tensor:
        return to_channels(self.images[index], self.channels)

    def where(self, index: int) -> str:
        return f"{self.name} {self.numbers[index]}"

    def take(self, indices: Sequence[int]) -> "ArrayPart":
        labels, numbers = [self.labels[i] for i in indices], [self.numbers[i] for i in indices]
        return ArrayPart(self.images[list(indices)], labels, self.name, self.channels, numbers)


class StoredPart(Part):
    """Images that lie encoded somewhere and are decoded when asked for; some of them may be damaged."""

    channels: int
    """what the images are converted to, 1 or 3"""

    def source(self, index: int) -> str | bytes:
        """The encoded image, or the path of its file."""
        raise NotImplementedError

    def stamp(self, index: int) -> tuple[str, int, int] | None:
        """Name, size in bytes and time of change of what holds the image; None where they cannot be told.

        As long as they stay, the image does.
        """
        return None

    def image(self, index: int) -> Tensor:
        return read_image(self.source(index), self.channels, self.where(index))


class FilePart(StoredPart):
    """Images in files.

    Args:
        paths: of the image files
        labels: class number of every image
        channels: what the images are converted to, 1 or 3
    """

    def __init__(self, paths: Sequence[str | PathLike[str]], labels: list[int], channels: int) -> None:
        self.paths, self.labels, self.channels = [fspath(path) for path in paths], labels, channels

    def source(self, index: int) -> str:
        return self.paths[index]

    def stamp(self, index: int) -> tuple[str, int, int] | None:
        try:
            found = os.stat(self.paths[index])
        except OSError:
            return None
        return os.path.abspath(self.paths[index]), found.st_size, found.st_mtime_ns

    def where(self, index: int) -> str:
        return self.paths[index]

    def take(self, indices: Sequence[int]) -> "FilePart":
        return FilePart([self.paths[i] for i in indices], [self.labels[i] for i in indices], self.channels)


class _Parted:
    """Something with parts. One that the source does not have is None."""

    train: Part
    val: Part | None
    test: Part | None

    @property
    def parts(self) -> dict[str, Part]:
        """Those that there are, by name."""
        named = {"train": self.train, "val": self.val, "test": self.test}
        return {name: part for name, part in named.items() if part is not None}


@dataclass(frozen=True)
class Data(_Parted):
    """A dataset: what it is, and its parts. A part that the source does not have is None."""

    info: DataInfo
    train: Part
    val: Part | None = None
    test: Part | None = None


@dataclass(frozen=True)
class Found(_Parted):
    """What a source has, before a validation part is split off and the colours are measured."""

    name: str
    classes: tuple[str, ...]
    channels: int
    size: tuple[int, int] | None
    """(H, W) where all images agree"""
    mirror: bool
    """whether a mirrored image keeps its class"""
    split: str
    """how the parts were made, and why so"""
    train: Part
    val: Part | None = None
    test: Part | None = None
    ordered: bool = False
    """whether neighbours belong together, as the images of one writer do, so that they must not be split at random"""
