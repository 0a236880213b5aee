"""One run: check, fit, test, write down. Its folder holds all it takes to judge, use or continue it."""

import logging
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EarlyStopping
from rich.console import Console

from backbones import factory
from backbones.backbone import Backbone
from backbones.data import Data, mixer
from backbones.evaluate import measure
from backbones.layers import RandomPath
from backbones.recipes import check
from backbones.records import Options, Recipe
from backbones.train import preflight
from backbones.train.callbacks import History, Keep, ProgressBar, moving_average
from backbones.train.folder import (
    BEST,
    LAST,
    METRICS_FILE,
    RESUME_FILE,
    SHARED,
    is_first_process,
    new_folder,
    write_settings,
)
from backbones.train.loaders import Loaders, answers, input_of, threads_beside
from backbones.train.module import Classifier
from backbones.train.report import Result, write_report


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
    options, start = options or Options(), time.perf_counter()
    console = (console or Console()) if is_first_process() else Console(quiet=True)
    recipe = check(recipe)
    if options.early_stop and data.val is None:
        raise ValueError("--early-stop watches the validation part, and there is none; add --val-split 0.1")
    preprocessing = input_of(model, data, options.img_size)
    loaders = Loaders(data, preprocessing, recipe, options)
    precision = {"bfloat16": "bf16-mixed", "float16": "16-mixed"}[options.amp_dtype] if options.amp else "32-true"
    if options.output and not resume and is_first_process() and (Path(options.output) / RESUME_FILE).exists():
        raise ValueError(f"{options.output} holds a run; continue it with --resume, or give another --output")
    for note in notes:
        console.print(f"note: {note}", style="dim", markup=False, highlight=False, soft_wrap=True)
    if is_first_process():
        preflight.check_data(data)
        seconds = preflight.check_step(model, preprocessing.size, recipe, len(data.train), precision)
        steps = -(-len(data.train) // recipe.batch_size)
        told = (
            f"{model.variant.name}: {sum(p.numel() for p in model.parameters()):,} parameters, "
            f"{len(data.train):,} images, {recipe.epochs} epochs of {steps} steps, "
            f"about {max(1, round(seconds * steps * recipe.epochs))} s of computing"
        )
        console.print(told, markup=False, highlight=False, soft_wrap=True)
    folder = Path(options.output) if options.output else new_folder(model.variant.name, data.info.name)
    if is_first_process():
        preflight.check_disk(folder, model)
        write_settings(folder, recipe, options, notes, origin or {})

    def save(name: str, metrics: Mapping[str, float], network: Backbone = model) -> None:
        told = {"classes": data.info.classes, "preprocessing": preprocessing, "recipe": recipe, "data": data.info.name}
        factory.save(network, folder / name, metrics=metrics, **told)  # type: ignore[arg-type]

    history = History(folder / METRICS_FILE)
    keep = Keep(folder / RESUME_FILE, lambda epoch, top1: save(BEST, {"epoch": epoch, "val_top1": top1}))
    module = Classifier(model, recipe, options.seed, mixer(recipe, len(data.info.classes)))
    kept = torch.load(folder / RESUME_FILE, weights_only=True) if resume else None
    if kept:
        loaders.first_epoch = kept["epoch"] + 1
    if kept and loaders.first_epoch >= recipe.epochs:  # all epochs are done, and what is kept is what came of them
        module.load_state_dict(kept["state_dict"])
        history.load_state_dict(kept["callbacks"][history.state_key])
        epoch = recipe.epochs
    else:
        epoch = _train(module, loaders, [history, keep, ProgressBar(console)], precision, folder, resume, console, save)
    save(LAST, {"epoch": epoch})
    if data.val is None:  # nothing to choose by
        save(BEST, {"epoch": epoch})
    best = factory.load(folder / BEST)
    part, name = (data.test, "test") if data.test else (data.val, "val") if data.val else (data.train, "train")
    collected = answers(best, part, preprocessing, recipe.batch_size, options.workers)
    metrics = measure(*collected, len(data.info.classes))
    figures = {**best.checkpoint.metrics, **{f"{name}_{key}": value for key, value in metrics.summary().items()}}
    save(BEST, figures, best)
    result = Result(folder, name, metrics, collected, history.rows, time.perf_counter() - start)
    write_report(result, best, part, data.info, notes)
    return result


def _train(
    module: Classifier,
    loaders: Loaders,
    callbacks: list[L.Callback],
    precision: Any,
    folder: Path,
    resume: bool,
    console: Console,
    save: Callable[[str, Mapping[str, float]], None],
) -> int:
    """Lightning's part: all epochs, on all devices. The number of epochs done; only the first process returns."""
    recipe, options = loaders.recipe, loaders.options
    if recipe.model_ema:
        callbacks.append(moving_average(recipe))
    if options.early_stop:
        callbacks.append(EarlyStopping("val_top1", mode="max", patience=options.early_stop))
    with _quiet(), threads_beside(loaders.workers), _told_to_others(folder):
        try:
            trainer = L.Trainer(
                max_epochs=recipe.epochs,
                devices=options.devices,
                num_nodes=options.nodes,
                strategy=_strategy(module, options),
                precision=precision,
                gradient_clip_val=recipe.clip_grad,
                callbacks=callbacks,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                use_distributed_sampler=False,
                num_sanity_val_steps=0,
            )
        except MisconfigurationException as error:
            raise ValueError(f"--devices {options.devices}, --nodes {options.nodes}: {error}") from None
        try:
            checkpoint = folder / RESUME_FILE if resume else None
            trainer.fit(module, datamodule=loaders, ckpt_path=checkpoint, weights_only=True)
        except SystemExit:  # Lightning's answer to Ctrl-C
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if trainer.is_global_zero:
                save(LAST, {"epoch": trainer.current_epoch})
            how = f"stopped in epoch {trainer.current_epoch + 1}; go on with: backbones train --resume {folder}"
            console.print(how, markup=False, highlight=False, soft_wrap=True)
            raise KeyboardInterrupt from None
    if not trainer.is_global_zero:
        raise SystemExit(0)  # the first process tests and reports
    return trainer.current_epoch


def _strategy(module: Classifier, options: Options) -> str:
    """Processes that each see a dropped branch must be told that its gradients will not come."""
    several = options.nodes > 1 or options.devices not in ("auto", "1") or torch.cuda.device_count() > 1
    drops = any(m.rate for m in module.modules() if isinstance(m, RandomPath))
    return "ddp_find_unused_parameters_true" if several and drops else "auto"


@contextmanager
def _told_to_others(folder: Path) -> Iterator[None]:
    """The processes that this one starts work in the same folder."""
    os.environ[SHARED] = str(folder)
    try:
        yield
    finally:
        os.environ.pop(SHARED, None)


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
