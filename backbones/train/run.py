"""One run: check, fit, test, write down. Its folder holds all it takes to judge, use or continue it."""

import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from backbones import factory
from backbones.allocator import keep_freed_memory
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
    here,
    images_of,
    is_first_process,
    locked,
    log_of,
    new_folder,
    read_beginning,
    sweep,
    write_settings,
    write_to_log,
)
from backbones.train.images import each_once, unusable, write_list
from backbones.train.loaders import Loaders, computing_threads, input_of, threads_beside
from backbones.train.loop import Loop
from backbones.train.precision import check_same, precision_of
from backbones.train.report import Result, write_report
from backbones.train.stopping import Requests, Stopped
from backbones.train.store import Store, holds_run
from backbones.train.watch import RETRY, Watch

LOST = ("gloo", "nccl", "NCCL", "onnection")
"""words in the errors of a process that has lost another one"""

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
    resumed = Path(options.output or "") if resume else None
    options = replace(options, precision=precision_of(options, resumed))  # type: ignore[arg-type]
    console = (console or Console()) if is_first_process() else Console(quiet=True)
    recipe = check(recipe)
    preflight.check_options(options)
    if options.compile:
        preflight.check_compile(model)
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
        start, signalled = time.perf_counter(), 0
        keep_freed_memory()
        self.fabric = launch.connect(self.model, self.options)
        self._check_share()
        self.folder, self.terminal = Path(), 2
        self.watch = Watch(self.options.hang_seconds, self._tell, lambda rank: log_of(self.folder, rank))
        with ExitStack() as held:
            with self._told_of_errors():
                self.folder, began, state = launch.by_first(self.fabric, lambda: self._make_ready(held))
                self.data = _without(self.data, began["left_out"])
                loop = self._loop()
                if state:
                    loop.load_state_dict(state)
            with computing_threads(began["threads"]), loop.requests.heard(), self._told_of_errors():
                try:
                    loop.run()
                except Stopped as stopped:
                    signalled = stopped.number
                    self._stop(loop)
            launch.disconnect_at_exit(self.fabric)
            if signalled:
                _obey(signalled)
            self._keep_last(loop)
            self.watch.close()
            if not self.fabric.is_global_zero:
                raise SystemExit(0)  # the first process tests and reports
            each_once(self.folder)
            return self._tested(loop, start)

    def _check_share(self) -> None:
        """Before anything is made: what depends on the number of processes."""
        options, together = self.options, self.fabric.world_size * self.options.accumulate
        if self.fabric.world_size > 1:
            check_same(options.precision)
        if self.recipe.batch_size % together:
            whole = max(1, round(self.recipe.batch_size / together)) * together
            raise ValueError(
                f"a batch of {self.recipe.batch_size} images cannot be shared evenly by {self.fabric.world_size} "
                f"processes in {options.accumulate} parts each; give --batch-size {whole}"
            )
        if options.sync_batchnorm and self.fabric.device.type == "cpu":
            raise ValueError("--sync-batchnorm works on GPUs; leave it out here")

    def _make_ready(self, held: ExitStack) -> tuple[Path, dict[str, Any], State | None]:
        """The folder, ours until `held` is left; what the run began with; where it stood. In the first process."""
        options, said = self.options, list[str]()
        now = here(self.fabric.world_size)
        if self.resume:
            folder = Path(options.output or "")
            held.enter_context(locked(folder))
            began = read_beginning(folder)
            if options.on_bad_image == "error":
                unusable(self.data, options, self.console)
            self._try(_without(self.data, began["left_out"]))
            check_images(began["images"], images_of(_without(self.data, began["left_out"]).train))
            self.store = Store(folder / CHECKPOINTS)
            state, damaged = self.store.newest()
            if other := differences(began["here"], now):
                said.append(f"{other}: the weights will not be those of an uninterrupted run to the last bit")
            said += damaged
        else:
            bad = unusable(self.data, options, self.console)
            left_out = [one.where for one in bad.values()]
            data = _without(self.data, left_out)
            self._try(data)
            folder = Path(options.output) if options.output else new_folder(self.model.variant.name, data.info.name)
            preflight.check_disk(folder, self.model)
            held.enter_context(locked(folder))
            workers = workers_by_default() if options.workers is None else options.workers
            told = {
                "images": images_of(data.train),
                "left_out": left_out,
                "threads": threads_beside(workers),
                "here": now,
            }
            began, state, self.store = told, None, Store(folder / CHECKPOINTS)
            if options.on_bad_image == "skip":
                write_list(bad, folder)
            if bad:
                said.append(f"{len(bad):,} images cannot be used and are left out: {folder / BAD_IMAGES}")
        for sentence in said:
            self._say(f"note: {sentence}")
        self.store.folder.mkdir(exist_ok=True)
        sweep(folder)
        write_settings(folder, self.recipe, options, self.notes, self.origin, began)
        return folder, began, state

    def _try(self, data: Data) -> None:
        """One step on a copy; says what is about to be trained, and for how long."""
        model, recipe, options, size = self.model, self.recipe, self.options, self.preprocessing.size
        processes, images = self.fabric.world_size, len(data.train)
        preflight.check_memory(model, size, recipe, options, processes)
        try:
            seconds = preflight.check_step(model, size, recipe, options, images, processes)
        except RuntimeError as error:
            if not preflight.is_memory(error):
                raise
            raise preflight.does_not_fit(model, size, recipe, options, processes) from None
        steps = max(1, images // recipe.batch_size)
        self._say(
            f"{model.variant.name}: {sum(p.numel() for p in model.parameters()):,} parameters, "
            f"{images:,} images, {recipe.epochs} epochs of {steps} steps, "
            f"about {max(1, round(seconds * steps * recipe.epochs))} s of computing in "
            f"{options.precision}"
        )

    def _loop(self) -> Loop:
        """The run of this process, ready to start."""
        fabric, folder, options = self.fabric, self.folder, self.options
        first, rank, processes = fabric.is_global_zero, fabric.global_rank, fabric.world_size
        if not first:
            self.terminal, self.store = write_to_log(log_of(folder, rank)), Store(folder / CHECKPOINTS)
        if options.sync_batchnorm:
            torch.nn.SyncBatchNorm.convert_sync_batchnorm(self.model)  # type: ignore[no-untyped-call]
        skipped = folder / BAD_IMAGES if options.on_bad_image == "skip" else None
        return Loop(
            fabric,
            self.model,
            self.recipe,
            options,
            Loaders(self.data, self.preprocessing, self.recipe, options, rank, processes, skipped),
            self.store,
            Requests(options.checkpoint_every_minutes, clock=first),
            Told(self.console, folder / METRICS_FILE, self.recipe.epochs, processes, first),
            self.watch,
            self._save,
        )

    def _stop(self, loop: Loop) -> None:
        """After a signal: what was trained so far is saved, and the user told how to go on."""
        self.watch.close()
        network = loop.whole()
        if self.fabric.is_global_zero:
            self._save(LAST, network, {"epoch": loop.epoch})
        where = f"stopped in epoch {loop.epoch + 1}, after step {loop.step}"
        self._say(f"{where}; go on with: backbones train --resume {self.folder}")

    @contextmanager
    def _told_of_errors(self) -> Iterator[None]:
        """Tell the other processes of an error; raise what a user can act on, where the error itself is not that."""
        try:
            yield
        except Exception as error:
            if any(word in str(error) for word in LOST) and (culprit := self.watch.culprit()):
                self._tell(culprit)
                raise SystemExit(RETRY) from None
            advice = None
            if isinstance(error, RuntimeError) and preflight.is_memory(error):
                size, processes = self.preprocessing.size, self.fabric.world_size
                advice = preflight.does_not_fit(self.model, size, self.recipe, self.options, processes)
            self.watch.close(f"{type(error).__name__}: {advice or error}" if self.folder.name else "done")
            if advice:
                raise advice from None
            raise

    def _keep_last(self, loop: Loop) -> None:
        with loop.average.applied() if loop.average else nullcontext():
            network = loop.whole()
            if self.fabric.is_global_zero:
                self._save(LAST, network, {"epoch": loop.epoch})
                if self.data.val is None:  # nothing to choose by
                    self._save(BEST, network, {"epoch": loop.epoch})

    def _tested(self, loop: Loop, start: float) -> Result:
        """The best network on the part that was kept for that, and the report."""
        kept = self.folder / BEST
        if not kept.exists():
            self._say(f"note: {kept} is gone; the last network is tested in its place")
            kept = self.folder / LAST
        data, best = self.data, factory.load(kept)
        part, name = (data.test, "test") if data.test else (data.val, "val") if data.val else (data.train, "train")
        tested = Member(best.to(self.fabric.device), prepare("single", self.preprocessing))
        collected = answers([tested], part, self.recipe.batch_size, self.options.workers)
        metrics = measure(*collected, len(data.info.classes))
        figures = {**best.checkpoint.metrics, **{f"{name}_{key}": value for key, value in metrics.summary().items()}}
        self._save(BEST, best, figures)
        seconds, precision = time.perf_counter() - start, self.options.precision
        result = Result(self.folder, name, metrics, collected, loop.told.rows, seconds, precision)
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

    def _tell(self, text: str) -> None:
        """To the user, also from a process whose output goes to its log."""
        os.write(self.terminal, f"{text}\n".encode())

    def _say(self, sentence: str) -> None:
        self.console.print(sentence, markup=False, highlight=False, soft_wrap=True)


def _without(data: Data, left_out: Sequence[str]) -> Data:
    return leave_out(data, [Bad(where, "") for where in left_out])


def _obey(number: int) -> None:
    """End as the signal asks, now that all is saved; whoever listened to SIGUSR2 before us, listens again."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    if number == signal.SIGUSR2:
        os.kill(os.getpid(), number)
    raise SystemExit(128 + number)
