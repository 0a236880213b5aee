"""The images of a run, as its network is to see them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
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
    set_epoch,
    train_transform,
)
from backbones.evaluate import Collected, collect
from backbones.records import Options, Preprocessing, Recipe


class Loaders(L.LightningDataModule):
    """The training and validation images, for this process of the run."""

    first_epoch = 0

    def __init__(self, data: Data, preprocessing: Preprocessing, recipe: Recipe, options: Options) -> None:
        super().__init__()
        self.data, self.preprocessing, self.recipe, self.options = data, preprocessing, recipe, options
        self.workers = workers_by_default() if options.workers is None else options.workers

    def train_dataloader(self) -> DataLoader[Any]:
        colours = colours_of(self.data.train) if self.recipe.lighting else None
        transform = train_transform(self.preprocessing, self.recipe, self.data.info, colours)
        loader = self._loader(self.data.train, transform, train=True)
        set_epoch(loader, self.first_epoch)  # loading starts before Lightning says which epoch it is
        return loader

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        if self.data.val is None:
            return []
        return self._loader(self.data.val, eval_transform(self.preprocessing), train=False)

    def _loader(self, part: Part, transform: Any, train: bool) -> DataLoader[Any]:
        world_size, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        return make_loader(
            part,
            transform,
            batch_size=max(1, self.recipe.batch_size // world_size),
            train=train,
            seed=self.options.seed,
            workers=self.workers,
            rank=rank,
            world_size=world_size,
        )


def input_of(model: Backbone, data: Data, img_size: int | None = None) -> Preprocessing:
    """How this network is to see these images: at its own size, cropped where photographs are."""
    side = model.variant.input_size[1] if img_size is None else img_size
    if side < model.min_size:
        raise ValueError(f"--img-size {side}; {model.variant.name} reads {model.min_size} pixels or more")
    crop = model.variant.crop if data.info.size is None else 1.0  # small images have no border to spare
    return preprocessing_for(data.info, (side, side), model.in_channels, crop)


def answers(
    model: Backbone, part: Part, preprocessing: Preprocessing, batch_size: int, workers: int | None = None
) -> Collected:
    """What the network says of every image of a part, seen once, in order."""
    loader = make_loader(
        part,
        eval_transform(preprocessing),
        batch_size=batch_size,
        train=False,
        seed=0,
        workers=workers_by_default() if workers is None else workers,
    )
    return collect(model, loader, "cuda" if torch.cuda.is_available() else "cpu")


def workers_by_default() -> int:
    """Half of the processors, up to 8: the other half computes, or feeds the GPU."""
    return max(1, min(8, (os.cpu_count() or 1) // 2))


@contextmanager
def threads_beside(workers: int) -> Iterator[None]:
    """As many computing threads as processors are left: more would wait for the loading processes, spinning."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, min(before, (os.cpu_count() or 1) - workers)))
    try:
        yield
    finally:
        torch.set_num_threads(before)
