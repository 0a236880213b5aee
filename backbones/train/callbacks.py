"""What happens beside the training step: progress, history, files."""

import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from backbones.records import Recipe
from backbones.weights.file import in_place

METRICS = ("train_loss", "train_top1", "val_loss", "val_top1")


def moving_average(recipe: Recipe) -> WeightAveraging:
    """Exponential moving average of weights and statistics; early steps count for more, so that short runs work too."""

    def average(old: torch.Tensor, new: torch.Tensor, count: Any) -> torch.Tensor:
        decay = min(recipe.model_ema_decay, (1 + int(count)) / (10 + int(count)))
        return torch.lerp(old, new, 1 - decay) if old.is_floating_point() else new

    return WeightAveraging(avg_fn=average)


class History(L.Callback):
    """One row per epoch, in memory and in metrics.csv; rows of a run that is resumed are kept."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, list[dict[str, float]]()

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows = state["rows"]

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        seconds = time.perf_counter() - self._start
        values = {key: float(trainer.callback_metrics[key]) for key in METRICS if key in trainer.callback_metrics}
        row = {"epoch": trainer.current_epoch + 1, **values, "lr": trainer.optimizers[0].param_groups[0]["lr"]}
        self.rows.append({**row, "seconds": round(seconds, 3)})
        if trainer.is_global_zero:
            with in_place(self.path) as temporary, open(temporary, "w", newline="") as file:
                writer = csv.DictWriter(file, list(self.rows[0]))
                writer.writeheader()
                writer.writerows(self.rows)


class Keep(L.Callback):
    """Writes the resume file at the end of every epoch, and has the network saved whenever it is the best so far.

    Stands before the moving average in the list of callbacks, which takes its weights back after the validation.
    """

    def __init__(self, file: Path, keep_best: Callable[[int, float], None]) -> None:
        self.file, self.keep_best, self.best = file, keep_best, -1.0

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = state["best"]

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.current_epoch == 0:
            self._write(trainer)

    def on_validation_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.sanity_checking or "val_top1" not in trainer.callback_metrics:
            return
        top1 = float(trainer.callback_metrics["val_top1"])
        if top1 > self.best:
            self.best = top1
            if trainer.is_global_zero:
                self.keep_best(trainer.current_epoch + 1, top1)

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._write(trainer)

    def _write(self, trainer: L.Trainer) -> None:
        trainer.save_checkpoint(self.file)


class ProgressBar(L.Callback):
    """Epoch, loss, accuracy, images per second and time left: one live line, or a line now and then in a log file."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        self.bar = Progress(
            TextColumn("epoch"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[told]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task("", total=trainer.max_epochs, completed=trainer.current_epoch, told="")
        self.bar.start()
        self._marks = {round((trainer.max_epochs or 1) * k / 10) for k in range(1, 11)} | {1}

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._start, self._images, self._shown = time.perf_counter(), 0, 0.0

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._images += len(batch[1]) * trainer.world_size
        now = time.perf_counter()
        if trainer.is_global_zero and not self.bar.disable and now - self._shown > 0.2:
            self._shown = now
            done = trainer.current_epoch + (batch_idx + 1) / float(trainer.num_training_batches)
            self.bar.update(self.task, completed=round(done, 2), told=self._told(trainer, outputs["loss"].item()))

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        told = self._told(trainer, float(trainer.callback_metrics["train_loss"]))
        epoch = trainer.current_epoch + 1
        self.bar.update(self.task, completed=epoch, told=told)
        if self.bar.disable and epoch in self._marks:
            self.console.print(f"epoch {epoch}/{trainer.max_epochs}  {told}")

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.stop()

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        self.stop()

    def stop(self) -> None:
        if bar := getattr(self, "bar", None):
            bar.stop()

    def _told(self, trainer: L.Trainer, loss: float) -> str:
        parts = [f"loss {loss:.3f}"]
        for part, name in (("train", "train top-1"), ("val", "val top-1")):
            if (value := trainer.callback_metrics.get(f"{part}_top1")) is not None:
                parts.append(f"{name} {float(value):.1f} %")
        return "  ".join([*parts, f"{self._images / (time.perf_counter() - self._start):,.0f} images/s"])
