"""Batches whose content is a pure function of (seed, epoch), whatever the workers, and of nothing else."""

import csv
import os
import signal
from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from backbones.data.parts import Part
from backbones.data.scaled import CropWhileDecoding

MOST_FAILED = 0.1
"""share of the images that one process passes over because they cannot be read"""


class Loaded(Dataset[tuple[Tensor, int]]):
    """A part with its transform. In training, what is drawn for an image depends on (seed, epoch, index) alone.

    Args:
        part: images and labels
        transform: uint8 (C, H, W) -> uint8 or float32 (C, H', W')
        seed: of the run
        train: whether the transform draws
        scaled: whether JPEGs that the transform crops first are decoded no larger than the crop needs
        skipped: a CSV file to which images that cannot be read are added; the next readable one takes their place.
            Without, they are an error
    """

    def __init__(
        self,
        part: Part,
        transform: Callable[[Tensor], Tensor],
        seed: int,
        train: bool,
        skipped: Path | None = None,
        scaled: bool = False,
    ) -> None:
        self.part, self.transform, self.seed, self.train, self.skipped = part, transform, seed, train, skipped
        self.scaled = CropWhileDecoding(part, transform) if scaled else None
        self._failed = set[int]()
        # in shared memory, so that workers that outlive an epoch see it change
        self.epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next images are for."""
        self.epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        generator = torch.default_generator  # torch.manual_seed would also visit the GPUs: 120 us instead of 1
        before = generator.get_state() if self.train else None
        if self.train:
            generator.manual_seed(seed_of(self.seed, int(self.epoch), index))
        try:
            if self.scaled:
                return self.scaled(index), self.part.labels[index]
            image, label = self.part[index]
            return self.transform(image), label
        except (ValueError, FileNotFoundError) as error:  # other errors, such as of a network, say nothing of the image
            failed = error
        finally:
            if before is not None:
                generator.set_state(before)
        self._skip(index, failed)
        return self[(index + 1) % len(self)]

    def _skip(self, index: int, error: Exception) -> None:
        """Note an image that cannot be read; raise the error where that is not asked for, or too many are like it."""
        if self.skipped is None:
            raise error
        if index in self._failed:
            return
        self._failed.add(index)
        if len(self._failed) > MOST_FAILED * len(self):
            raise error
        with open(self.skipped, "a", newline="") as file:
            csv.writer(file).writerow(("train", self.part.where(index), str(error)))


class EpochSampler(Sampler[int]):
    """The order of the images for one of `world_size` processes: a pure function of (seed, epoch).

    With `shuffle` (training) every process gets equally many, the first of the epoch again where the number does not
    divide: image i of the epoch goes to process i mod world_size, so that the first n of each process are the first
    n world_size of the epoch, however many processes there are. Without (evaluation) every image is given exactly once
    over all processes.

    Args:
        length: number of images
        seed: of the run
        shuffle: whether to draw a new order every epoch
        rank: of this process
        world_size: number of processes
        epoch: a tensor (1,) that holds the epoch, to share it with `Loaded`
        limit: most images of this process in a pass
    """

    def __init__(
        self,
        length: int,
        seed: int,
        shuffle: bool,
        rank: int = 0,
        world_size: int = 1,
        epoch: Tensor | None = None,
        limit: int | None = None,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} of {world_size} processes; ranks go from 0 to {world_size - 1}")
        self.length, self.seed, self.shuffle, self.rank, self.world_size = length, seed, shuffle, rank, world_size
        self.epoch = torch.zeros(1, dtype=torch.int64) if epoch is None else epoch
        self.limit = limit
        self.start = 0
        """images of this process that the next pass leaves out, because they were seen before a run was stopped"""

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next."""
        self.epoch.fill_(epoch)

    def __len__(self) -> int:
        if self.shuffle:
            share = -(-self.length // self.world_size)
            return share if self.limit is None else min(share, self.limit)
        return len(range(self.rank, self.length, self.world_size))

    def __iter__(self) -> Iterator[int]:
        if not self.shuffle:
            return iter(range(self.rank, self.length, self.world_size))
        generator = torch.Generator().manual_seed(seed_of(self.seed, int(self.epoch), -1))
        order = torch.randperm(self.length, generator=generator).tolist()
        mine = range(self.rank, len(self) * self.world_size, self.world_size)[self.start :]
        return iter([order[i % self.length] for i in mine])


def make_loader(
    part: Part,
    transform: Callable[[Tensor], Tensor],
    *,
    batch_size: int,
    train: bool,
    seed: int,
    workers: int,
    rank: int = 0,
    world_size: int = 1,
    skipped: Path | None = None,
    limit: int | None = None,
    scaled: bool = False,
) -> DataLoader[tuple[Tensor, int]]:
    """Batches of (images (N, C, H, W), labels (N,)). Before every epoch of training, call `set_epoch(loader, epoch)`.

    Args:
        part: images and labels
        transform: uint8 (C, H, W) -> uint8 or float32 (C, H', W')
        batch_size: images per batch of this process
        train: shuffled, in equal numbers per process, with draws; else in order, every image exactly once
        seed: of the run
        workers: processes that read images; 0 reads them in this one
        rank: of this process
        world_size: number of processes
        skipped: as in `Loaded`
        limit: as in `EpochSampler`
        scaled: as in `Loaded`
    """
    dataset = Loaded(part, transform, seed, train, skipped, scaled)
    sampler = EpochSampler(len(part), seed, train, rank, world_size, dataset.epoch, limit)
    leaves_one = len(sampler) > batch_size and len(sampler) % batch_size == 1 and batch_size > 1
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        drop_last=train and leaves_one,  # batch norm has no statistics of one image
        persistent_workers=workers > 0,
        worker_init_fn=_outlive_signals,
        generator=torch.Generator().manual_seed(seed_of(seed, -1, -1)),  # else it would draw from the global one
    )


def set_epoch(loader: DataLoader[tuple[Tensor, int]], epoch: int, start: int = 0) -> None:
    """Say which epoch the next pass over a loader from `make_loader` is; its order and its draws follow.

    The pass leaves out the first `start` images of this process.
    """
    if not isinstance(loader.sampler, EpochSampler):
        raise TypeError(
            f"set_epoch takes a loader from make_loader; this one's sampler is {type(loader.sampler).__name__}"
        )
    loader.sampler.set_epoch(epoch)
    loader.sampler.start = start


def workers_by_default() -> int:
    """Processes to load images with: half of the processors, up to 8; the other half computes, or feeds the GPU.

    Where torchrun started several processes on this machine, they share the processors.
    """
    return max(1, min(8, (os.cpu_count() or 1) // 2 // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def seed_of(*numbers: int) -> int:
    """A seed of 63 bits, spread evenly over all that differ in any number."""
    return int.from_bytes(blake2b(repr(numbers).encode(), digest_size=8).digest()) >> 1


def _outlive_signals(worker: int) -> None:
    """Signals to the whole group are for the process that trains: it finishes its step with the images it waits for.

    A minute after a SIGTERM the worker ends all the same; it ends by itself where that process is gone.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.setitimer(signal.ITIMER_REAL, 60.0))
    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))


def end_workers(loader: DataLoader[tuple[Tensor, int]]) -> None:
    """End the processes that a loader keeps from one epoch to the next."""
    if loader._iterator is not None:
        loader._iterator._shutdown_workers()  # type: ignore[attr-defined]
        loader._iterator = None
