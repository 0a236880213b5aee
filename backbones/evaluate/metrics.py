"""From logits and labels to figures. Every accuracy is in percent."""

from dataclasses import dataclass
from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor

CALIBRATION_BINS = 15
Z_95 = 1.959964
"""a normal variable stays within this many standard deviations 95 % of the time"""


@dataclass(frozen=True)
class Metrics:
    """What a network got right on one set of images."""

    images: int
    top1: float
    top5: float | None
    """None with five classes or fewer"""
    loss: float
    """mean cross entropy"""
    calibration_error: float
    """expected gap between confidence and accuracy over 15 bins of equal width, in percent"""
    per_class: tuple[float | None, ...]
    """accuracy on the images of each class; None for a class without images"""
    confusion: tuple[tuple[int, ...], ...]
    """images, by true class (row) and predicted class (column)"""

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of `top1`: how far the luck of drawing these images reaches."""
        share, spread = self.top1 / 100, Z_95**2 / self.images
        half = sqrt(spread * (share * (1 - share) + spread / 4))
        low, high = ((share + spread / 2 + side) / (1 + spread) for side in (-half, half))
        return max(0.0, 100 * low), min(100.0, 100 * high)

    def summary(self) -> dict[str, float]:
        """The figures of the whole set, for JSON; without top5 where there is none."""
        figures = {
            "images": self.images,
            "top1": self.top1,
            "top5": self.top5,
            "loss": self.loss,
            "calibration_error": self.calibration_error,
        }
        return {name: figure for name, figure in figures.items() if figure is not None}


def measure(logits: Tensor, labels: Tensor, num_classes: int) -> Metrics:
    """All metrics of a whole set. logits (N, num_classes), labels (N,) with values 0 to num_classes - 1."""
    _check(logits, labels, num_classes)
    try:
        from torchmetrics.functional.classification import multiclass_calibration_error, multiclass_confusion_matrix
    except ImportError as error:
        raise ImportError("metrics need torchmetrics; run: pip install 'backbones[train]'") from error

    logits, labels = logits.float(), labels.long()
    predicted = logits.argmax(1)
    confusion: list[list[int]] = multiclass_confusion_matrix(predicted, labels, num_classes).tolist()
    gap = multiclass_calibration_error(logits.softmax(1), labels, num_classes, n_bins=CALIBRATION_BINS)
    among_five = (logits.topk(5).indices == labels[:, None]).any(1) if num_classes > 5 else None
    return Metrics(
        images=len(labels),
        top1=_percent(predicted == labels),
        top5=None if among_five is None else _percent(among_five),
        loss=F.cross_entropy(logits, labels).item(),
        calibration_error=100 * gap.item(),
        per_class=tuple(100 * row[i] / sum(row) if any(row) else None for i, row in enumerate(confusion)),
        confusion=tuple(map(tuple, confusion)),
    )


def _percent(right: Tensor) -> float:
    return 100 * int(right.sum()) / len(right)


def _check(logits: Tensor, labels: Tensor, num_classes: int) -> None:
    if num_classes < 2:
        raise ValueError(f"num_classes={num_classes}; metrics compare classes: give 2 or more")
    if logits.ndim != 2 or logits.shape[1] != num_classes:
        raise ValueError(
            f"logits of shape {tuple(logits.shape)}, but num_classes={num_classes}: they must be (N, {num_classes}); "
            f"build the network with num_classes={num_classes}, or give the number that it was built with"
        )
    if labels.shape != logits.shape[:1]:
        raise ValueError(f"labels of shape {tuple(labels.shape)}; give one per image, ({len(logits)},)")
    if not len(labels):
        raise ValueError("no images; give at least one")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"labels from {int(labels.min())} to {int(labels.max())}; with num_classes={num_classes} they go from 0 "
            f"to {num_classes - 1}: check that the data and the network have the same classes"
        )
    if strange := int((~torch.isfinite(logits)).any(1).sum()):
        raise ValueError(
            f"logits of {strange} of {len(logits)} images are not finite; the training has diverged or the precision "
            f"is too low: evaluate in float32, then lower the learning rate"
        )
