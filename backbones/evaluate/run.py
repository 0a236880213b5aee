"""A network over a set of images, in eval mode and without gradients."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from backbones.evaluate.metrics import Metrics, measure
from backbones.geometry import evaluating


class Collected(NamedTuple):
    """Every answer of a network, in the order of the loader, on the CPU."""

    logits: Tensor
    """(N, num_classes), float32"""
    labels: Tensor
    """(N,), long"""


def collect(
    model: nn.Module,
    loader: Iterable[Sequence[Tensor]],
    device: torch.device | str | None = None,
    amp: torch.dtype | None = None,
) -> Collected:
    """Run the model over batches of (images, labels). Every part of it is back in its own mode afterwards.

    `device` is where the images are sent, the model's own by default; `amp` is the precision of autocast, if any.
    """
    device = device_of(model) if device is None else torch.device(device)
    logits, labels = list[Tensor](), list[Tensor]()
    autocast = torch.autocast(device.type, dtype=amp, enabled=amp is not None)
    with evaluating(model), torch.inference_mode(), autocast:
        for images, truth in loader:
            logits.append(logits_of(model, images.to(device, non_blocking=True)).cpu())
            labels.append(truth.long().cpu())
    if not logits:
        raise ValueError("the loader has no batches; give at least one image, and drop_last=False to evaluate on few")
    return Collected(torch.cat(logits), torch.cat(labels))


def device_of(model: nn.Module) -> torch.device:
    """Where the model's weights are."""
    return next((tensor.device for tensor in [*model.parameters(), *model.buffers()]), torch.device("cpu"))


def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """model(images), (N, num_classes) in float32. ValueError for a model that returns something else."""
    answer = model(images)
    if not isinstance(answer, Tensor) or answer.ndim != 2:
        kind = f"shape {tuple(answer.shape)}" if isinstance(answer, Tensor) else f"type {type(answer).__name__}"
        raise ValueError(f"the model returned {kind}; give one that returns logits (N, num_classes)")
    return answer.float()


def evaluate(
    model: nn.Module,
    loader: Iterable[Sequence[Tensor]],
    num_classes: int,
    device: torch.device | str | None = None,
    amp: torch.dtype | None = None,
) -> Metrics:
    """What the model gets right on the loader's images; arguments as for `collect`."""
    return measure(*collect(model, loader, device, amp), num_classes)
