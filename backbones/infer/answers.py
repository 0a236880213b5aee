"""Whether a fast network still gives the answers of the one it was made from."""

import time
from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from backbones.infer.source import Run, Source, batches

SAME = 1e-6
"""share of the largest result by which results differ that are the same"""
WANTED = "give a tensor (N, C, H, W), batches of (images, classes), or a dataset of (image, class)"
MOST_IMAGES = 512
"""of the calibration images that are looked at"""


@dataclass(frozen=True)
class Calibration:
    """Images such as the network will see, and their classes where they are known."""

    images: Tensor
    labels: Tensor | None = None

    @classmethod
    def of(cls, given: Any, example: Sequence[Tensor]) -> "Calibration":
        """From a tensor of images, batches of images or of (images, classes), or a dataset of (image, class).

        Of a dataset that can be read in any order, images from all over it.

        Raises:
            ValueError: nothing in it, or images of another size or kind than the example
        """
        if len(example) != 1:
            raise ValueError(f"calibration needs a module of one tensor; this one takes {len(example)}")
        images, labels = list[Tensor](), list[Tensor]()
        for item in _items(given, example[0].dim()):
            image, label = item if isinstance(item, tuple | list) and len(item) == 2 else (item, None)
            if not isinstance(image, Tensor):
                raise ValueError(f"calibration has a {type(image).__name__}; {WANTED}")
            images.append(image if image.dim() == example[0].dim() else image[None])
            if label is not None:
                labels.append(torch.as_tensor(label).reshape(-1))
            if sum(map(len, images)) >= MOST_IMAGES:
                break
        if not sum(map(len, images)):
            raise ValueError(f"calibration has no images; {WANTED}")
        kinds = {(tuple(x.shape[1:]), x.dtype) for x in images} - {(tuple(example[0].shape[1:]), example[0].dtype)}
        if kinds:
            raise ValueError(f"calibration has images of {kinds.pop()}; give them as the network will see them")
        if labels and sum(map(len, labels)) != sum(map(len, images)):
            raise ValueError(f"calibration has {sum(map(len, images))} images and {sum(map(len, labels))} classes")
        together = torch.cat(images)[:MOST_IMAGES].to(example[0].device)
        return cls(together, torch.cat(labels)[:MOST_IMAGES].to(example[0].device) if labels else None)


def _items(given: Any, dimensions: int) -> Iterable[Any]:
    if isinstance(given, Tensor):
        return [given] if given.dim() == dimensions else [given[None]]
    if isinstance(given, tuple) and len(given) == 2 and all(isinstance(part, Tensor) for part in given):
        return [given]
    if isinstance(given, str | bytes) or not isinstance(given, Iterable | Sized):
        raise ValueError(f"calibration is a {type(given).__name__}; {WANTED}")
    if hasattr(given, "__getitem__") and isinstance(given, Sized) and not isinstance(given, list | tuple):
        count = min(len(given), MOST_IMAGES)
        return (given[place * len(given) // count] for place in range(count))
    return cast(Iterable[Any], given)


@dataclass(frozen=True)
class Answers:
    """What a network gives for the example, and its first answers on the calibration images."""

    results: list[Tensor]
    classes: Tensor | None = None

    @classmethod
    def of(cls, run: Run, source: Source, images: Tensor | None, seconds: float = float("inf")) -> "Answers":
        """Compute them, in batches of the example's size, of as many images as there is time for.

        Raises:
            ValueError: it returns no tensor
        """
        with torch.inference_mode():
            results = [y.float() for y in pytree.tree_leaves(run(*source.example)) if isinstance(y, Tensor)]
            if not results:
                raise ValueError("the module returns no tensor; give one that does")
            if images is None or results[0].dim() < 2 or results[0].shape[1] < 2:
                return cls(results)  # nothing to choose among
            given, end = list[Tensor](), time.perf_counter() + seconds
            for batch in _alike(images, source.batch):
                given.append(pytree.tree_leaves(run(batch))[0].argmax(1))
                if time.perf_counter() > end:
                    break
        return cls(results, torch.cat(given))

    def error(self, other: "Answers") -> float:
        """Largest difference of the other's results from these, as a share of the range of these."""
        return max(
            float((mine - theirs).abs().max() / _range(mine)) if bool(theirs.isfinite().all()) else float("inf")
            for mine, theirs in zip(self.results, other.results, strict=True)
        )

    def agreement(self, other: "Answers") -> float | None:
        """Share of the calibration images with the same first answer."""
        if self.classes is None or other.classes is None:
            return None
        return float((self.classes == other.classes).double().mean())

    def accuracy(self, labels: Tensor | None) -> float | None:
        """Share of first answers that are right, in points."""
        if self.classes is None or labels is None or self.classes.dim() > 1:
            return None
        return 100 * float((self.classes == labels[: len(self.classes)]).double().mean())


def _alike(images: Tensor, batch: int) -> list[Tensor]:
    """Batches of the example's size, what is left over left out; all together where they are too few for one."""
    whole = len(images) // batch * batch
    return batches(images[:whole], batch) if whole else [images]


def _range(results: Tensor) -> Tensor:
    """Of the largest and the smallest; where all are the same, such as a single one, how large that is."""
    largest = results.abs().max().clamp(min=1e-30)
    span = results.max() - results.min()
    return span if span > SAME * largest else largest
