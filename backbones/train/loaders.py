"""The images of a run, as its network is to see them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from backbones.backbone import Backbone
from backbones.data import (
    Data,
    Part,
    colours_of,
    end_workers,
    eval_transform,
    make_loader,
    preprocessing_for,
    split,
    train_transform,
    workers_by_default,
)
from backbones.records import Options, Preprocessing, Recipe


class Loaders:
    """The training and validation images of one process of the run.

    Args:
        data: all of them
        preprocessing: as the network is to see them
        recipe: with the size of a batch over all processes
        options: with the parts that each process takes its share in
        rank: of this process
        world_size: number of processes
        skipped: where training images that cannot be read are noted; without, they are an error
    """

    def __init__(
        self,
        data: Data,
        preprocessing: Preprocessing,
        recipe: Recipe,
        options: Options,
        rank: int,
        world_size: int,
        skipped: Path | None,
    ) -> None:
        batch_size = recipe.batch_size // (world_size * options.accumulate)
        self.steps = max(1, len(data.train) // recipe.batch_size)
        """of the optimiser, in an epoch: the images that do not fill a batch wait for another epoch"""
        limit = self.steps * options.accumulate * batch_size
        self.workers = workers_by_default() if options.workers is None else options.workers

        def loader(part: Part, transform: Any, train: bool, skipped: Path | None = None) -> DataLoader[Any]:
            return make_loader(
                part,
                transform,
                batch_size=batch_size,
                train=train,
                seed=options.seed,
                workers=self.workers,
                rank=rank,
                world_size=world_size,
                skipped=skipped,
                limit=limit if train else None,
                scaled=train and options.decode == "scaled",
            )

        self.size = preprocessing.size
        colours = colours_of(data.train) if recipe.lighting else None
        each, self.finish = split(train_transform(preprocessing, recipe, data.info, colours))
        """what is left to do with a batch, where the network is: to floats, and normalising"""
        self.train = loader(data.train, each, True, skipped)
        each, self.finish_val = split(eval_transform(preprocessing))
        self.val = loader(data.val, each, False) if data.val else None

    def close(self) -> None:
        """End the processes that load images."""
        for loader in (self.train, self.val):
            if loader is not None:
                end_workers(loader)


def input_of(model: Backbone, data: Data, img_size: int | None = None) -> Preprocessing:
    """How this network is to see these images: at its own size, cropped where photographs are."""
    side = model.variant.input_size[1] if img_size is None else img_size
    if side < model.min_size:
        raise ValueError(f"--img-size {side}; {model.variant.name} reads {model.min_size} pixels or more")
    crop = model.variant.crop if data.info.size is None else 1.0  # small images have no border to spare
    return preprocessing_for(data.info, (side, side), model.in_channels, crop)


def threads_beside(workers: int) -> int:
    """As many computing threads as processors are left: more would wait for the loading processes, spinning."""
    return max(1, min(torch.get_num_threads(), (os.cpu_count() or 1) - workers))


@contextmanager
def computing_threads(number: int) -> Iterator[None]:
    """So many within this block: the order of sums, and so the last bits of the weights, depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
