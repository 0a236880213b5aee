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
    eval_transform,
    make_loader,
    preprocessing_for,
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
        together = world_size * options.accumulate
        if recipe.batch_size % together:
            whole = max(1, round(recipe.batch_size / together)) * together
            raise ValueError(
                f"a batch of {recipe.batch_size} images cannot be shared evenly by {world_size} processes in "
                f"{options.accumulate} parts each; give --batch-size {whole}"
            )
        self.workers = workers_by_default() if options.workers is None else options.workers

        def loader(part: Part, transform: Any, train: bool, skipped: Path | None = None) -> DataLoader[Any]:
            return make_loader(
                part,
                transform,
                batch_size=recipe.batch_size // together,
                train=train,
                seed=options.seed,
                workers=self.workers,
                rank=rank,
                world_size=world_size,
                skipped=skipped,
            )

        self.size = preprocessing.size
        colours = colours_of(data.train) if recipe.lighting else None
        self.train = loader(data.train, train_transform(preprocessing, recipe, data.info, colours), True, skipped)
        self.val = loader(data.val, eval_transform(preprocessing), False) if data.val else None
        self.steps = -(-len(self.train) // options.accumulate)
        """of the optimiser, in an epoch"""


def input_of(model: Backbone, data: Data, img_size: int | None = None) -> Preprocessing:
    """How this network is to see these images: at its own size, cropped where photographs are."""
    side = model.variant.input_size[1] if img_size is None else img_size
    if side < model.min_size:
        raise ValueError(f"--img-size {side}; {model.variant.name} reads {model.min_size} pixels or more")
    crop = model.variant.crop if data.info.size is None else 1.0  # small images have no border to spare
    return preprocessing_for(data.info, (side, side), model.in_channels, crop)


@contextmanager
def threads_beside(workers: int) -> Iterator[None]:
    """As many computing threads as processors are left: more would wait for the loading processes, spinning."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, min(before, (os.cpu_count() or 1) - workers)))
    try:
        yield
    finally:
        torch.set_num_threads(before)
