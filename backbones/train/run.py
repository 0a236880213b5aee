"""One run: check, fit, test, write down. Its folder holds all it takes to judge, use or continue it."""

import logging
import os
import signal
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping
from rich.console import Console
from torch.utils.data import DataLoader

from backbones import factory
from backbones.backbone import Backbone
from backbones.data import (
    Data,
    Part,
    colours_of,
    eval_transform,
    make_loader,
    mixer,
    preprocessing_for,
    train_transform,
)
from backbones.evaluate import Collected, collect, measure
from backbones.records import Options, Preprocessing, Recipe
from backbones.train import preflight
from backbones.train.callbacks import History, Keep, ProgressBar, moving_average
from backbones.train.folder import BEST, LAST, METRICS_FILE, RESUME_FILE, new_folder, write_settings
from backbones.train.module import Classifier
from backbones.train.optimise import check
from backbones.train.report import Result, write_report


class Loaders(L.LightningDataModule):
    """The training and validation images, for this process of the run."""

    def __init__(self, data: Data, preprocessing: Preprocessing, recipe: Recipe, options: Options) -> None:
        super().__init__()
        self.data, self.preprocessing, self.recipe, self.options = data, preprocessing, recipe, options
        self.workers = workers_by_default() if options.workers is None else options.workers

    def train_dataloader(self) -> DataLoader[Any]:
        colours = colours_of(self.data.train) if self.recipe.lighting else None
        transform = train_transform(self.preprocessing, self.recipe, self.data.info, colours)
        return self._loader(self.data.train, transform, train=True)

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
    side = img_size or model.variant.input_size[1]
    if side < model.min_size:
        raise ValueError(f"--img-size {side}; {model.variant.name} reads {model.min_size} pixels or more")
    crop = model.variant.crop if data.info.size is None else 1.0  # small images have no border to spare
    return preprocessing_for(data.info, (side, side), model.in_channels, crop)


def fit(
    model: Backbone,
    data: Data,
    recipe: Recipe,
    options: Options | None = None,
    *,
    notes: Sequence[str] = (),
    origin: Mapping[str, Any] | None = None,
    resume: bool = False,
    console: Console | None = None,
) -> Result:
    """Train the network by the recipe, test the best of it, and write the run's folder.

    Args:
        model: from `create_model`, with as many classes and channels as the data
        recipe: as it is to be followed; see `size_to`
        notes: what differs from the recipe's source; printed and kept
        origin: how the model and the data were made; kept, so that the run can be continued
        resume: continue the run in `options.output` from its last whole epoch

    Raises:
        ValueError: settings that cannot be followed, images that cannot be read
        MemoryError, OSError: no room for a batch, or for the run's files
        FloatingPointError: the loss became infinite
        KeyboardInterrupt: after Ctrl-C; what was trained so far is kept, and the console says how to go on
    """
    console, options, start = console or Console(), options or Options(), time.perf_counter()
    recipe = check(recipe)
    if options.early_stop and data.val is None:
        raise ValueError("--early-stop watches the validation part, and there is none; add --val-split 0.1")
    preprocessing = input_of(model, data, options.img_size)
    folder = Path(options.output) if options.output else new_folder(model.variant.name, data.info.name)
    checkpoint = folder / RESUME_FILE
    if not resume and checkpoint.exists() and "LOCAL_RANK" not in os.environ:
        raise ValueError(f"{folder} holds a run; continue it with --resume {folder}, or give another --output")
    for note in notes:
        console.print(f"[dim]note: {note}[/]")
    precision = {"bfloat16": "bf16-mixed", "float16": "16-mixed"}[options.amp_dtype] if options.amp else "32-true"
    preflight.check_data(data)
    preflight.check_disk(folder, model)
    seconds = preflight.check_step(model, preprocessing.size, recipe, len(data.train), precision)
    steps = -(-len(data.train) // recipe.batch_size)
    console.print(
        f"{model.variant.name}: {sum(p.numel() for p in model.parameters()):,} parameters, "
        f"{len(data.train):,} images, {recipe.epochs} epochs of {steps} steps, "
        f"about {max(1, round(seconds * steps * recipe.epochs))} s of computing; folder {folder}",
        highlight=False,
        soft_wrap=True,
    )
    write_settings(folder, recipe, options, notes, origin or {})

    def save(name: str, metrics: Mapping[str, float], network: Backbone = model) -> None:
        told = {"classes": data.info.classes, "preprocessing": preprocessing, "recipe": recipe, "data": data.info.name}
        factory.save(network, folder / name, metrics=metrics, **told)  # type: ignore[arg-type]

    history = History(folder / METRICS_FILE)
    callbacks = [
        history,
        Keep(checkpoint, lambda epoch, top1: save(BEST, {"epoch": epoch, "val_top1": top1})),
        ProgressBar(console),
        *([moving_average(recipe)] if recipe.model_ema else []),
        *([EarlyStopping("val_top1", mode="max", patience=options.early_stop)] if options.early_stop else []),
    ]
    module = Classifier(model, recipe, options.seed, mixer(recipe, len(data.info.classes)))
    loaders = Loaders(data, preprocessing, recipe, options)
    with _quiet(), _threads_beside(loaders.workers):
        trainer = L.Trainer(
            max_epochs=recipe.epochs,
            devices=options.devices,
            num_nodes=options.nodes,
            precision=precision,  # type: ignore[arg-type]
            gradient_clip_val=recipe.clip_grad,
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
        )
        try:
            trainer.fit(module, datamodule=loaders, ckpt_path=checkpoint if resume else None, weights_only=True)
        except SystemExit:  # Lightning's answer to Ctrl-C
            signal.signal(signal.SIGINT, signal.default_int_handler)
            save(LAST, {"epoch": trainer.current_epoch})
            console.print(
                f"stopped in epoch {trainer.current_epoch + 1}; go on with: backbones train --resume {folder}"
            )
            raise KeyboardInterrupt from None
    if not trainer.is_global_zero:
        raise SystemExit(0)  # the first process tests and reports
    save(LAST, {"epoch": trainer.current_epoch})
    if data.val is None:  # nothing to choose by
        save(BEST, {"epoch": trainer.current_epoch})
    best = factory.load(folder / BEST)
    part, name = (data.test, "test") if data.test else (data.val, "val") if data.val else (data.train, "train")
    collected = answers(best, part, preprocessing, recipe.batch_size, options.workers)
    metrics = measure(*collected, len(data.info.classes))
    told = {**best.checkpoint.metrics, **{f"{name}_{key}": value for key, value in metrics.summary().items()}}
    save(BEST, told, best)
    result = Result(folder, name, metrics, collected, history.rows, time.perf_counter() - start)
    write_report(result, best, part, data.info, notes)
    return result


def workers_by_default() -> int:
    """Half of the processors, up to 8: the other half computes, or feeds the GPU."""
    return max(1, min(8, (os.cpu_count() or 1) // 2))


@contextmanager
def _threads_beside(workers: int) -> Iterator[None]:
    """As many computing threads as processors are left: more would wait for the loading processes, spinning."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, min(before, (os.cpu_count() or 1) - workers)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


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


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's own messages: the console says what there is to say."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
