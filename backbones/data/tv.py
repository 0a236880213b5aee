"""The datasets of torchvision, in their own parts."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from backbones.data.parts import ArrayPart, FilePart, Found, Part


@dataclass(frozen=True)
class _Set:
    """How torchvision's class is asked for the parts."""

    parts: Mapping[str, Mapping[str, Any]]
    """our part -> the arguments with which torchvision makes it"""
    files: tuple[str, str] | None = None
    """the attributes with paths and labels, where images are in files"""
    size: tuple[int, int] | None = None
    channels: int = 3
    mirror: bool = True
    download: bool = True
    split: str = "train and test as published"


_TRAIN_TEST: dict[str, dict[str, Any]] = {"train": {"train": True}, "test": {"train": False}}

SETS = {
    "MNIST": _Set(_TRAIN_TEST, size=(28, 28), channels=1, mirror=False),
    "FashionMNIST": _Set(_TRAIN_TEST, size=(28, 28), channels=1),
    "CIFAR10": _Set(_TRAIN_TEST, size=(32, 32)),
    "CIFAR100": _Set(_TRAIN_TEST, size=(32, 32)),
    "ImageNet": _Set(
        {"train": {"split": "train"}, "val": {"split": "val"}},
        files=("imgs", "targets"),
        download=False,
        split="train and val as published; the labels of the test images are not public",
    ),
    "Flowers102": _Set(
        {"train": {"split": "train"}, "val": {"split": "val"}, "test": {"split": "test"}},
        files=("_image_files", "_labels"),
        split="train, val and test as published",
    ),
    "OxfordIIITPet": _Set(
        {"train": {"split": "trainval"}, "test": {"split": "test"}},
        files=("_images", "_labels"),
        split="train is what the publishers call trainval, test is theirs",
    ),
}
"""name of torchvision's class -> what we ask of it"""


def open_tv(name: str, root: str, channels: int | None, download: bool) -> Found:
    """One of torchvision's datasets. FileNotFoundError, with what to do, where it is not under `root`."""
    if name not in SETS:
        raise ValueError(f"tv:{name}@{root} is not known; after 'tv:' can stand {', '.join(SETS)}")
    known = SETS[name]
    if download and not known.download:
        raise ValueError(f"{name} cannot be downloaded; {_BY_HAND.format(root=root)}, then leave out --download")
    theirs = {part: _make(name, root, arguments, download) for part, arguments in known.parts.items()}
    ours: dict[str, Any] = {
        part: _part(made, f"{name} {part}", known, channels or known.channels) for part, made in theirs.items()
    }
    classes = tuple(", ".join(c) if isinstance(c, tuple) else str(c) for c in _classes(theirs["train"], ours["train"]))
    return Found(name, classes, channels or known.channels, known.size, known.mirror, known.split, **ours)


_BY_HAND = (
    "get ILSVRC2012_devkit_t12.tar.gz, ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from image-net.org, "
    "put them into {root}"
)


def _make(name: str, root: str, arguments: Mapping[str, Any], download: bool) -> Any:
    from torchvision import datasets  # here, because it takes 5 seconds to load

    place, extra = Path(root).expanduser(), {"download": True} if download else {}
    if download:
        place.mkdir(parents=True, exist_ok=True)
    one_at_a_time = FileLock(place / f".{name}.lock") if download else nullcontext()  # several processes may ask
    try:
        with one_at_a_time:
            return getattr(datasets, name)(place, **arguments, **extra)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"torchvision reads {name} with {error.name}; run: pip install {error.name}"
        ) from error
    except (RuntimeError, OSError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        if download:
            raise OSError(
                f"{name} could not be downloaded to {root} ({said}); check the network and try again"
            ) from error
        todo = "add --download" if SETS[name].download else f"it cannot be downloaded: {_BY_HAND.format(root=root)}"
        raise FileNotFoundError(f"no whole {name} under {root} ({said}); {todo}, or give the right folder") from error


def _part(made: Any, name: str, known: _Set, channels: int) -> Part:
    if known.files is None:
        images = torch.as_tensor(made.data)  # MNIST: (N, H, W); CIFAR: (N, H, W, 3)
        images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
        return ArrayPart(images, [int(label) for label in made.targets], name, channels)
    images_at, labels_at = known.files
    paths = [entry[0] if isinstance(entry, tuple) else entry for entry in getattr(made, images_at)]
    return FilePart(paths, [int(label) for label in getattr(made, labels_at)], channels)


def _classes(made: Any, part: Part) -> list[Any]:
    return list(getattr(made, "classes", range(max(part.labels) + 1)))
