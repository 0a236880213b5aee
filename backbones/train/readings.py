"""What came of each part of a step, read without making a GPU wait."""

from typing import NamedTuple

import torch
from torch import Tensor


class Reading(NamedTuple):
    """Of one part of a process' share of a batch."""

    step: int
    loss: float
    right: int
    images: int
    inputs: Tensor
    """what the network was given"""


class Readings:
    """On a GPU a reading is known when the next part has been queued, so that there is always work; else at once."""

    def __init__(self) -> None:
        self._waiting: tuple[Tensor, torch.cuda.Event, Reading] | None = None

    def after(self, step: int, loss: Tensor, right: Tensor, inputs: Tensor) -> list[Reading]:
        """Hand in a part; what is known by now, in order."""
        new = Reading(step, 0.0, 0, len(inputs), inputs)
        if loss.device.type != "cuda":
            return [new._replace(loss=loss.item(), right=int(right))]
        known = self.rest()
        figures = torch.stack([loss.double(), right.double()]).to("cpu", non_blocking=True)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record()
        self._waiting = figures, copied, new
        return known

    def rest(self) -> list[Reading]:
        """What is still to be told; waits for it."""
        if self._waiting is None:
            return []
        figures, copied, reading = self._waiting
        self._waiting = None
        copied.synchronize()
        loss, right = figures.tolist()
        return [reading._replace(loss=loss, right=int(right))]
