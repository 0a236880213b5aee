"""One run: check, fit, test, write down. Its folder holds all it takes to judge, use or continue it."""

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.fabric import Fabric
from rich.console import Console

from backbones import factory
from backbones.backbone import Backbone
from backbones.data import Bad, Data, leave_out, workers_by_default
from backbones.evaluate import Member, answers, measure, prepare
from backbones.recipes import check
from backbones.records import Options, Preprocessing, Recipe
from backbones.train import launch, preflight
from backbones.train.console import Told
from backbones.train.folder import (
    BAD_IMAGES,
    BEST,
    CHECKPOINTS,
    LAST,
    METRICS_FILE,
    check_images,
    differences,
    is_first_process,
    locked,
    log_of,
    new_folder,
    write_settings,
    write_to_log,
)
from backbones.train.images import each_once, unusable, write_list
from backbones.train.loaders import Loaders, input_of, threads_beside
from backbones.train.loop import Loop
from backbones.train.report import Result, write_report
from backbones.train.stopping import Requests, Stopped
from backbones.train.store import Store, holds_run
from backbones.train.watch import RETRY, Watch

LOST = ("gloo", "nccl", "NCCL", "onnection")
"""words in the errors of a process that has lost another one"""

T = TypeVar("T")
State = dict[str, Any]


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

    Started by torchrun or Slurm, every process calls this with the same arguments; the first one returns the result,
    the others end.

    Args:
        model: from `create_model`, with as many classes and channels as the data
        recipe: as it is to be followed; see `size_to`
        notes: what differs from the recipe's source; printed and kept
        origin: how the model and the data were made; kept, so that the run can be continued
        resume: continue the run in `options.output` from its last checkpoint

    Raises:
        ValueError: settings that cannot be followed, images that cannot be read
        MemoryError, OSError: no room for a batch, or for the run's files
        FloatingPointError: the loss became infinite, or exploded
        KeyboardInterrupt, SystemExit: after SIGINT or SIGTERM; a checkpoint is kept, and the console says how to go on
    """
    options = options or Options()
    console = (console or Console()) if is_first_process() else Console(quiet=True)
    recipe = check(recipe)
    if options.early_stop and data.val is None:
        raise ValueError("--early-stop watches the validation part, and there is none; add --val-split 0.1")
    preprocessing = input_of(model, data, options.img_size)
    if options.output and not resume and is_first_process() and holds_run(Path(options.output) / CHECKPOINTS):
        raise ValueError(f"{options.output} holds a run; continue it with --resume, or give another --output")
    for note in notes:
        console.print(f"note: {note}", style="dim", markup=False, highlight=False, soft_wrap=True)
    run = _Run(model, data, preprocessing, recipe, options, tuple(notes), dict(origin or {}), resume, console)
    return run.carry_out()


@dataclass
class _Run:
    """What the steps of `fit` share."""

    model: Backbone
    data: Data
    preprocessing: Preprocessing
    recipe: Recipe
    options: Options
    notes: tuple[str, ...]
    origin: dict[str, Any]
    resume: bool
    console: Console

    def carry_out(self) -> Result:
        start = time.perf_counter()
        self.fabric = launch.connect(self.model, self.options)
        with ExitStack() as held:
            self.folder, bad, state = _by_first(self.fabric, lambda: self._make_ready(held))
            self.data = leave_out(self.data, bad)
            loop = self._loop()
            if state:
                loop.load_state_dict(state)
            with threads_beside(loop.loaders.workers), loop.requests.heard():
                try:
                    loop.run()
                except Stopped as stopped:
                    raise self._stopped(loop, stopped.number) from None
                except Exception as error:
                    _give_up(error, loop)
                    raise
            self._keep_last(loop)
            loop.watch.close()
            if not self.fabric.is_global_zero:
                raise SystemExit(0)  # the first process tests and reports
            each_once(self.folder)
            return self._tested(loop, start)

    def _make_ready(self, held: ExitStack) -> tuple[Path, list[Bad], State | None]:
        """The folder, ours until `held` is left; images to leave out; where the run stood. In the first process."""
        model, data, options = self.model, self.data, self.options
        bad = unusable(data, options, workers_by_default(), self.console)
        self._try(images := len(leave_out(data, list(bad.values())).train))
        folder = Path(options.output) if options.output else new_folder(model.variant.name, data.info.name)
        preflight.check_disk(folder, model)
        held.enter_context(locked(folder))
        state, said = None, list[str]()
        if self.resume:
            check_images(folder, images)
            state, said = Store(folder / CHECKPOINTS).newest()
            if other := differences(folder):
                said.append(f"{other}: the weights will not be those of an uninterrupted run to the last bit")
        if options.on_bad_image == "skip":
            write_list(bad, folder)
            if bad:
                said.append(f"{len(bad):,} images cannot be used and are left out: {folder / BAD_IMAGES}")
        for sentence in said:
            self._say(f"note: {sentence}")
        write_settings(folder, self.recipe, options, self.notes, self.origin, images)
        return folder, list(bad.values()), state

    def _try(self, images: int) -> None:
        """One step on a copy; says what is about to be trained, and for how long."""
        model, recipe, options, size = self.model, self.recipe, self.options, self.preprocessing.size
        processes = self.fabric.world_size
        preflight.check_memory(model, size, recipe, options, processes)
        try:
            seconds = preflight.check_step(model, size, recipe, options, images, processes)
        except RuntimeError as error:
            if not preflight.is_memory(error):
                raise
            raise preflight.does_not_fit(model, size, recipe, options, processes) from None
        steps = -(-images // recipe.batch_size)
        self._say(
            f"{model.variant.name}: {sum(p.numel() for p in model.parameters()):,} parameters, "
            f"{images:,} images, {recipe.epochs} epochs of {steps} steps, "
            f"about {max(1, round(seconds * steps * recipe.epochs))} s of computing"
        )

    def _loop(self) -> Loop:
        """The run of this process, ready to start."""
        fabric, folder, options = self.fabric, self.folder, self.options
        first, rank, processes = fabric.is_global_zero, fabric.global_rank, fabric.world_size
        terminal = 2 if first else write_to_log(log_of(folder, rank))
        if options.sync_batchnorm:
            if fabric.device.type == "cpu":
                raise ValueError("--sync-batchnorm works on GPUs; leave it out here")
            torch.nn.SyncBatchNorm.convert_sync_batchnorm(self.model)  # type: ignore[no-untyped-call]
        store, skipped = Store(folder / CHECKPOINTS), folder / BAD_IMAGES if options.on_bad_image == "skip" else None
        if first:
            store.folder.mkdir(exist_ok=True)
            store.sweep()
        return Loop(
            fabric,
            self.model,
            self.recipe,
            options,
            Loaders(self.data, self.preprocessing, self.recipe, options, rank, processes, skipped),
            store,
            Requests(options.checkpoint_every_minutes, clock=first),
            Told(self.console, folder / METRICS_FILE, self.recipe.epochs, processes),
            Watch(options.hang_seconds, lambda text: _write(terminal, text), lambda of: log_of(folder, of)),
            self._save,
        )

    def _stopped(self, loop: Loop, number: int) -> BaseException:
        """What to raise after a signal, once what was trained so far is saved."""
        loop.watch.close()
        network = loop.whole()
        if self.fabric.is_global_zero:
            self._save(LAST, network, {"epoch": loop.epoch})
        where = f"stopped in epoch {loop.epoch + 1}, after {loop.done} of its {loop.loaders.steps} steps"
        self._say(f"{where}; go on with: backbones train --resume {self.folder}")
        return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)

    def _keep_last(self, loop: Loop) -> None:
        with loop.average.applied() if loop.average else nullcontext():
            network = loop.whole()
            if self.fabric.is_global_zero:
                self._save(LAST, network, {"epoch": loop.epoch})
                if self.data.val is None:  # nothing to choose by
                    self._save(BEST, network, {"epoch": loop.epoch})

    def _tested(self, loop: Loop, start: float) -> Result:
        """The best network on the part that was kept for that, and the report."""
        data, best = self.data, factory.load(self.folder / BEST)
        part, name = (data.test, "test") if data.test else (data.val, "val") if data.val else (data.train, "train")
        tested = Member(best.to(self.fabric.device), prepare("single", self.preprocessing))
        collected = answers([tested], part, self.recipe.batch_size, self.options.workers)
        metrics = measure(*collected, len(data.info.classes))
        figures = {**best.checkpoint.metrics, **{f"{name}_{key}": value for key, value in metrics.summary().items()}}
        self._save(BEST, best, figures)
        result = Result(self.folder, name, metrics, collected, loop.told.rows, time.perf_counter() - start)
        write_report(result, best, part, data.info, self.notes)
        return result

    def _save(self, name: str, network: Backbone, metrics: Mapping[str, float]) -> None:
        factory.save(
            network,
            self.folder / name,
            classes=self.data.info.classes,
            preprocessing=self.preprocessing,
            recipe=self.recipe,
            metrics=metrics,
            data=self.data.info.name,
        )

    def _say(self, sentence: str) -> None:
        self.console.print(sentence, markup=False, highlight=False, soft_wrap=True)


def _by_first(fabric: Fabric, work: Callable[[], T]) -> T:
    """What the first process finds, for all of them. Its error ends them all."""
    found: Any = None
    error: BaseException | None = None
    if fabric.is_global_zero:
        try:
            found = work()
        except BaseException as raised:
            error = raised
    failed, found = fabric.broadcast((error is not None, found))
    if error:
        raise error
    if failed:
        raise SystemExit(2)
    return found


def _write(handle: int, text: str) -> None:
    os.write(handle, f"{text}\n".encode())


def _give_up(error: Exception, loop: Loop) -> None:
    """Tell the other processes; raise what a user can act on, where the error itself is not that."""
    if any(word in str(error) for word in LOST) and (culprit := loop.watch.culprit()):
        loop.watch.tell(culprit)
        raise SystemExit(RETRY) from None
    loop.watch.close(f"{type(error).__name__}: {error}")
    if isinstance(error, RuntimeError) and preflight.is_memory(error):
        size = loop.loaders.size
        raise preflight.does_not_fit(loop.model, size, loop.recipe, loop.options, loop.fabric.world_size) from None
