"""Whether a fast network still gives the answers of the one it was made from."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from backbones.infer.source import Run, Source, batches

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

        Raises:
            ValueError: nothing in it, or images of another size than the example
        """
        if len(example) != 1:
            raise ValueError(f"calibration needs a module of one tensor; this one takes {len(example)}")
        images, labels = list[Tensor](), list[Tensor]()
        for item in _items(given, example[0].dim()):
            image, label = item if isinstance(item, tuple | list) else (item, None)
            images.append(image if image.dim() == example[0].dim() else image[None])
            if label is not None:
                labels.append(torch.as_tensor(label).reshape(-1))
            if sum(map(len, images)) >= MOST_IMAGES:
                break
        if not sum(map(len, images)):
            raise ValueError("calibration has no images; give a tensor (N, C, H, W), batches, or a dataset")
        if images[0].shape[1:] != example[0].shape[1:]:
            shapes = f"{tuple(images[0].shape[1:])} and {tuple(example[0].shape[1:])}"
            raise ValueError(f"images of calibration and example are {shapes}; give both as the network will see them")
        together = torch.cat(images)[:MOST_IMAGES]
        return cls(together, torch.cat(labels)[:MOST_IMAGES] if labels else None)


def _items(given: Any, dimensions: int) -> Iterable[Any]:
    if isinstance(given, Tensor):
        return [given] if given.dim() == dimensions else [given[None]]
    if isinstance(given, tuple) and len(given) == 2 and all(isinstance(part, Tensor) for part in given):
        return [given]
    if hasattr(given, "__getitem__") and hasattr(given, "__len__") and not isinstance(given, list | tuple):
        return (given[place] for place in range(len(given)))
    return iter(given)


@dataclass(frozen=True)
class Answers:
    """What a network gives for the example, and its first answers on the calibration images."""

    results: list[Tensor]
    classes: Tensor | None = None

    @classmethod
    def of(cls, run: Run, source: Source, calibration: Calibration | None) -> "Answers":
        """Compute them, in batches of the example's size."""
        with torch.inference_mode():
            results = [y.float() for y in pytree.tree_leaves(run(*source.example)) if isinstance(y, Tensor)]
            if calibration is None:
                return cls(results)
            whole = len(calibration.images) // source.batch * source.batch
            images = calibration.images if source.any_batch else calibration.images[:whole]
            given = [pytree.tree_leaves(run(batch))[0].argmax(-1) for batch in batches(images, source.batch)]
        return cls(results, torch.cat(given) if given else None)

    def error(self, other: "Answers") -> float:
        """Largest difference of the other's results from these, as a share of the range of these."""
        return max(
            float((mine - theirs).abs().max() / (mine.max() - mine.min()).clamp(min=1e-30))
            if bool(theirs.isfinite().all())
            else float("inf")
            for mine, theirs in zip(self.results, other.results, strict=True)
        )

    def agreement(self, other: "Answers") -> float | None:
        """Share of the calibration images with the same first answer."""
        if self.classes is None or other.classes is None:
            return None
        return float((self.classes == other.classes).double().mean())

    def accuracy(self, labels: Tensor | None) -> float | None:
        """Share of first answers that are right, in points."""
        if self.classes is None or labels is None:
            return None
        return 100 * float((self.classes == labels[: len(self.classes)]).double().mean())
