"""What networks say of every image of a part: under a protocol, one network or the mean of several."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from backbones.data import Part, workers_by_default
from backbones.evaluate.dense import dense_form
from backbones.evaluate.run import Collected, device_of, logits_of
from backbones.evaluate.views import Views
from backbones.geometry import evaluating


@dataclass(frozen=True)
class Member:
    """A network, how it looks at an image, and what its answers mean."""

    model: nn.Module
    views: Views
    columns: tuple[int, ...] | None = None
    """which of its answers stands for each class of the data; None where the order is the same"""


class Share(NamedTuple):
    """What one of several processes found."""

    numbers: Tensor
    """(n,) of its images in the part, ascending"""
    logits: Tensor
    """(n, num_classes); (0, 0) without images"""
    labels: Tensor


class Batch(NamedTuple):
    """Views of one shape."""

    numbers: Tensor
    """of the image that each was cut out of"""
    labels: Tensor
    views: Tensor
    """(N, C, H, W), N <= batch_size"""


class Unread(NamedTuple):
    """Why an image cannot be read: an exception would lose its words between processes."""

    why: str


class Cutter(IterableDataset[Batch | Unread]):
    """Cuts the views of one process' images and stacks them, never more than `batch_size` at a time.

    An image's views are cut when they are asked for; with workers, two batches of each wait to be taken.

    `groups` are the numbers of images whose views share batches, whoever cuts them: what is in a batch, and so every
    last bit of the answers, does not depend on the number of workers and processes.
    """

    def __init__(self, part: Part, views: Views, batch_size: int, groups: Sequence[range]) -> None:
        self.part, self.views, self.batch_size, self.groups = part, views, batch_size, groups

    def __iter__(self) -> Iterator[Batch | Unread]:
        worker = get_worker_info()
        for group in self.groups if worker is None else self.groups[worker.id :: worker.num_workers]:
            yield from self._batches(group)

    def _batches(self, numbers: Sequence[int]) -> Iterator[Batch | Unread]:
        held: list[tuple[int, int, Tensor]] = []
        for number in numbers:
            try:
                image, label = self.part[number]
            except (ValueError, OSError) as error:
                where, why = self.part.where(number), str(error)
                yield Unread(why if where in why else f"{where}: {why}")
                return
            for view in self.views(image):
                if held and (len(held) == self.batch_size or view.shape != held[0][2].shape):
                    yield _stacked(held)
                    held = []
                held.append((number, label, view))
        if held:
            yield _stacked(held)


def _stacked(held: Sequence[tuple[int, int, Tensor]]) -> Batch:
    numbers, labels, views = zip(*held, strict=True)
    return Batch(torch.tensor(numbers), torch.tensor(labels), torch.stack(views))


class Answers:
    """The networks' answers to one process' images, summed up as they come."""

    def __init__(self, numbers: Tensor, averaged: bool) -> None:
        self.numbers, self.averaged = numbers, averaged
        self.sums, self.labels = torch.zeros(len(numbers), 0), torch.zeros(len(numbers), dtype=torch.long)

    def add(self, batch: Batch, logits: Tensor, weight: float) -> None:
        """Add the logits (N, num_classes) of one network, or their probabilities with this weight."""
        answer = logits.cpu().double().softmax(1) * weight if self.averaged else logits.cpu()
        if not self.sums.shape[1]:
            self.sums = answer.new_zeros(len(self.numbers), answer.shape[1])
        if self.sums.shape[1] != answer.shape[1]:
            raise ValueError(
                f"networks of {self.sums.shape[1]} and of {answer.shape[1]} classes have no mean; "
                "give networks with the same classes"
            )
        rows = torch.searchsorted(self.numbers, batch.numbers)
        self.labels[rows] = batch.labels
        self.sums.index_add_(0, rows, answer)

    def share(self) -> Share:
        tiny = torch.finfo(torch.float64).tiny  # a probability of 0 would have no logarithm
        logits = self.sums.clamp(min=tiny).log() if self.averaged else self.sums
        return Share(self.numbers, logits.float(), self.labels)


def answers(members: Sequence[Member], part: Part, batch_size: int, workers: int | None = None) -> Collected:
    """What the networks say of every image of the part, in order; each runs where its weights are.

    One network that sees one view of an image: its logits. Otherwise the logarithm of the mean probabilities: the mean
    over each network's views, then over the networks.

    Args:
        members: the networks, with how they look at an image
        part: images and labels
        batch_size: views at a time
        workers: processes that read images and cut them; half of the processors by default, up to 8
    """
    return Collected(*share(members, part, batch_size, workers)[1:])


def share(
    members: Sequence[Member],
    part: Part,
    batch_size: int,
    workers: int | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> Share:
    """As `answers`, for the images of process `rank`: over all processes, every image exactly once."""
    if not members or not len(part):
        raise ValueError(f"{len(members)} networks and {len(part)} images; give at least one of each")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}; give at least one view at a time")
    if workers is not None and workers < 0:
        raise ValueError(f"workers={workers}; give a number of processes, 0 for none but this one")
    alike: dict[Views, list[Member]] = defaultdict(list)  # who sees the same: it is read and cut once
    for member in members:
        alike[member.views].append(member)
    images = max(1, batch_size // max(map(len, alike)))
    starts = range(rank * images, len(part), world_size * images)
    groups = [range(start, min(start + images, len(part))) for start in starts]
    numbers = torch.tensor([number for group in groups for number in group], dtype=torch.long)
    found = Answers(numbers, averaged=len(members) > 1 or len(members[0].views) > 1)
    for views, together in alike.items():
        models = [dense_form(one.model) if views.protocol.dense else one.model for one in together]
        with ExitStack() as modes, torch.inference_mode():
            for model in models:
                modes.enter_context(evaluating(model))
            for batch in _loader(Cutter(part, views, batch_size, groups), workers):
                if isinstance(batch, Unread):
                    raise ValueError(batch.why)
                for member, model in zip(together, models, strict=True):
                    logits = logits_of(model, batch.views.to(device_of(model), non_blocking=True))
                    logits = logits if member.columns is None else logits[:, member.columns]
                    found.add(batch, logits, 1 / (len(views) * len(members)))
    return found.share()


def _loader(cutter: Cutter, workers: int | None) -> DataLoader[Batch | Unread]:
    return DataLoader(
        cutter,
        batch_size=None,
        num_workers=workers_by_default() if workers is None else workers,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # else it would draw from the global one
    )
