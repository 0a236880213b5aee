"""Evaluation by several processes: each answers for its share of the images, the first puts the shares together."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from backbones.data import Part
from backbones.evaluate.answers import Member, Share, answers, share
from backbones.evaluate.run import Collected


class Place(NamedTuple):
    """One of several processes."""

    rank: int
    device: torch.device
    """its GPU, or the CPU"""


@contextmanager
def processes() -> Iterator[Place]:
    """This process among those that torchrun started, joined by gloo; the only one, where it started none."""
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    gpus = torch.cuda.device_count()
    gpu = int(os.environ.get("LOCAL_RANK", 0)) % max(1, gpus)
    place = Place(rank, torch.device("cuda", gpu) if gpus else torch.device("cpu"))
    if world_size == 1:
        yield place
        return
    dist.init_process_group("gloo")
    try:
        yield place
    finally:
        dist.destroy_process_group()


def answers_together(
    members: Sequence[Member], part: Part, batch_size: int, workers: int | None = None
) -> Collected | None:
    """As `answers`, by all processes of the default group (gloo), which call this alike; None but in the first.

    Every image is looked at exactly once, by one of them, and the result is that of one process to the last bit. What
    goes wrong in one process is raised by all.
    """
    if not dist.is_initialized():
        return answers(members, part, batch_size, workers)
    rank, world_size = dist.get_rank(), dist.get_world_size()
    cause: Exception | None = None
    mine = Share(torch.zeros(0, dtype=torch.long), torch.zeros(0, 0), torch.zeros(0, dtype=torch.long))
    try:
        mine = share(members, part, batch_size, workers, rank, world_size)
    except Exception as error:  # whatever it is, the others must not wait
        cause = error
    wrong = "" if cause is None else str(cause) or type(cause).__name__
    told: list[tuple[str, torch.Size]] = [("", mine.logits.shape)] * world_size
    dist.all_gather_object(told, (wrong, mine.logits.shape))
    if bad := [f"process {one} of {world_size}: {why}" for one, (why, _) in enumerate(told) if why]:
        raise ValueError("\n".join(bad)) from cause
    if rank:
        for tensor in mine:
            dist.send(tensor.contiguous(), 0)
        return None
    shares = [mine, *(_received(one, shape) for one, (_, shape) in enumerate(told) if one)]
    numbers, logits, labels = (torch.cat(parts) for parts in zip(*(s for s in shares if len(s.numbers)), strict=True))
    order = numbers.argsort()
    if not torch.equal(numbers[order], torch.arange(len(part))):
        raise RuntimeError(f"{len(numbers)} answers to {len(part)} images: the processes have different data")
    return Collected(logits[order], labels[order])


def _received(rank: int, shape: torch.Size) -> Share:
    kinds: list[tuple[Sequence[int], torch.dtype]] = [
        (shape[:1], torch.long),
        (shape, torch.float32),
        (shape[:1], torch.long),
    ]
    tensors: list[Tensor] = [torch.empty(tuple(size), dtype=dtype) for size, dtype in kinds]
    for tensor in tensors:
        dist.recv(tensor, rank)
    return Share(*tensors)
